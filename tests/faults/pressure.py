"""Three times as much wanted as there is room for, by replicas and a daemon that are killed all the time.

`python -m tests.faults.pressure [--minutes N] [--json]`, or the suite `pressure` of `python -m tests.faults`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cached import CachedError
from tests.daemon_process import DaemonProcess
from tests.faults.points import RULE, Finding, Point, Tally
from tests.faults.roots import remove_root
from tests.faults.suite import Context, Suite

MODELS = 30
REPLICAS = 4
FILE = 128 << 10
LIMIT = MODELS * 3 * FILE // 3
LOOK_SECONDS = 0.1  # Between two looks at the space …
BLOW_SECONDS = 2.0  # … and between two things that are done to them.
BLOWS = ("gc",) * 3 + ("free",) * 2 + ("kill replica",) * 6 + ("kill daemon",) * 2 + ("restart daemon",)


class Replica:
    """One process, and what it says."""

    def __init__(self, daemon: DaemonProcess, models: Path, seed: int, counts: Counter[str], said: list[str]) -> None:
        command = [sys.executable, "-m", "tests.faults.pressed", str(daemon.socket), str(models), str(seed)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._counts, self._said = counts, said
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "violation":
                self._said.append(rest)
            elif line.endswith("\n"):  # Else it was killed in the middle of a word.
                self._counts[word] += 1

    def end(self, kill: bool) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        if kill:
            self._process.kill()
        self._process.wait()
        self._reader.join()


class Pressure:
    def __init__(self, folder: Path, seed: int = 0, pause: float = BLOW_SECONDS) -> None:
        """`pause` in seconds, between two things that are done to them."""
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []  # Each begins with the invariant that was broken.
        self._chance = random.Random(seed)
        self._pause = pause
        self._blows = itertools.cycle(self._chance.sample(BLOWS, len(BLOWS)))
        self._models = folder / "models.json"
        self._write_models(folder / "models")
        self.daemon = DaemonProcess(folder / "daemon", limit=LIMIT, protocols=["file"], max_age="1h")
        self.daemon.config(file_roots=[str(folder / "models")], self_heal=False, scrub_interval=0)
        self._replicas: list[Replica] = []

    def _write_models(self, folder: Path) -> None:
        """Two files of its own for each, and one that all of them share."""
        known: dict[str, dict[str, str]] = {}
        shared = self._chance.randbytes(FILE)
        for number in range(MODELS):
            model = folder / f"model-{number}"
            files = {"tokenizer.json": shared, **{name: self._chance.randbytes(FILE) for name in ("a", "b", "c")}}
            model.mkdir(parents=True)
            for name, data in files.items():
                (model / name).write_bytes(data)
            known[f"file://{model}"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        self._models.write_text(json.dumps(known))

    def run(self, seconds: float) -> None:
        with self._started():
            ends = time.monotonic() + seconds
            next_blow = time.monotonic() + self._pause
            while time.monotonic() < ends:
                time.sleep(LOOK_SECONDS)  # Looking all the time would be a load of its own.
                self._look()
                if time.monotonic() >= next_blow:
                    self._blow()
                    next_blow = time.monotonic() + self._pause
            while self._replicas:
                self._replicas.pop().end(kill=False)
            self._look_back()

    @contextmanager
    def _started(self) -> Iterator[None]:
        """Nothing of it runs afterwards, however it ends."""
        try:
            self.daemon.start()
            for _ in range(REPLICAS):
                self._add_replica()
            yield
        finally:
            for replica in self._replicas:
                replica.end(kill=True)
            self.daemon.close()

    def _add_replica(self) -> None:
        seed = self._chance.randrange(1 << 30)
        self._replicas.append(Replica(self.daemon, self._models, seed, self.counts, self.violations))

    def _look(self) -> None:
        """I5, at this moment."""
        status = self.daemon.status()
        self.counts["looks"] += 1
        self.counts["largest total"] = max(self.counts["largest total"], status["used"] + status["reserved"])
        if status["used"] + status["reserved"] > LIMIT:
            self.violations.append(f"I5 {status['used']:,} used and {status['reserved']:,} reserved of {LIMIT:,}")
        if not status["healthy"]:
            self.violations.append(f"{RULE} not healthy: {status['reason']}")

    def _blow(self) -> None:
        what = next(self._blows)
        self.counts[what] += 1
        if what == "kill replica":
            self._replicas.pop(self._chance.randrange(len(self._replicas))).end(kill=True)
            self._add_replica()
        elif what == "kill daemon":
            self.daemon.kill()
            self.daemon.start()
        elif what == "restart daemon":
            self.daemon.stop()
            self.daemon.start()
        else:
            self._ask("gc", {"free": self._chance.randrange(LIMIT)} if what == "free" else {})

    def _ask(self, verb: str, body: dict[str, int]) -> None:
        try:
            with self.daemon.client(timeout=60.0) as client:
                self.counts["removed by gc"] += len(client.call("POST", f"/v1/{verb}", body)["removed"])
        except CachedError as error:
            self.violations.append(f"{RULE} {verb} failed: {error.message}")

    def _look_back(self) -> None:
        """After a restart, and with what broke off given up: nothing stray, and everything accounted for."""
        self._read_log()
        self.daemon.stop()
        self.daemon.start()
        self._ask("gc", {})
        for name in self.daemon.files("ingest", "trash", "quarantine"):
            self.violations.append(f"I5 {name[:60]} is left behind")
        on_disk = sum((self.daemon.root / name).stat().st_size for name in self.daemon.files("blobs"))
        status = self.daemon.status()
        if (status["used"], status["reserved"], status["leases"]) != (on_disk, 0, 0):
            self.violations.append(f"I5 {on_disk:,} bytes lie there, and status says {status}")
        self._ask("gc", {"free": 1 << 40})
        for name in self.daemon.files():
            self.violations.append(f"I5 {name[:60]} cannot be removed")
        self.daemon.stop()

    def _read_log(self) -> None:
        """How much was evicted, and whatever nobody foresaw."""
        log = self.daemon.log.read_text(errors="replace")
        self.counts["evictions"] = log.count("event=snapshot.evicted")
        before, *traces = log.split("Traceback (most recent call last):")
        for trace in traces:
            what, its, before = before[-200:], trace.partition("\nlevel=")[0], trace
            self.violations.append(f"{RULE} the daemon's log has a traceback: {what} {its[-800:]}")

    @property
    def acquires(self) -> int:
        return self.counts["hit"] + self.counts["fetched"] + self.counts["refused"]

    def as_json(self) -> dict[str, object]:
        return {"acquires": self.acquires, **self.counts, "limit": LIMIT, "violations": self.violations}


@contextmanager
def in_folder(folder: Path | None = None) -> Iterator[Path]:
    """A folder for it, gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="cached-pressure-", dir=folder))
    try:
        yield made
    finally:
        remove_root(made)
        shutil.rmtree(made, ignore_errors=True)


def suite(context: Context) -> Tally:
    tally = Tally("F20", "pressure", "acquires under pressure")
    with in_folder(context.folder) as folder:
        pressure = Pressure(folder)
        pressure.run(60.0 * context.minutes / context.every)
    tally.points = pressure.acquires
    point = Point("pressure", "-", 0, "-")
    for violation in pressure.violations:
        invariant, _, what = violation.partition(" ")
        tally.add(point, [Finding(invariant, what)])
    print(json.dumps(pressure.as_json()), file=sys.stderr, flush=True)
    return tally


SUITE = Suite("F20", "pressure", suite)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.pressure", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that nothing is left running.
    with in_folder() as folder:
        pressure = Pressure(folder)
        pressure.run(given.minutes * 60)
    told = pressure.as_json()
    if given.json:
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in told.items() if name != "violations"))
        print("\n".join([*pressure.violations, f"{len(pressure.violations)} violations"]))
    return 1 if pressure.violations else 0


if __name__ == "__main__":
    sys.exit(main())
