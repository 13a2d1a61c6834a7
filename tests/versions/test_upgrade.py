"""A root of two hundred models that the release before wrote, opened by this one: nothing of it is fetched again."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cached import Lease, SourceDenied
from cached.store.startup import preflight
from tests.daemon_process import DaemonProcess
from tests.people import Person, read
from tests.servers import HubStub, Tenants
from tests.versions.release import Release
from tests.versions.user import User
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

TOKEN = "hf_right"
PARKED, PARKED_BYTES, CUT = "hf://org/parked", 40 << 20, 24 << 20
KINDS = {"open": 60, "gated": 50, "own": 45, "caller": 45}  # Two hundred.
TABLES = ("snapshot", "blob", "resolution", "proof", "entrant", "pin")


@dataclass
class Site:
    """A node with its sources. `models` are the URIs by kind; `users` ask for them, by kind too."""

    hub: HubStub
    s3: Tenants
    daemon: DaemonProcess
    release: Release
    models: dict[str, list[str]] = field(default_factory=dict)
    users: dict[str, list[Person]] = field(default_factory=dict)

    def file_bytes(self) -> int:
        """What was fetched of all models but the parked one."""
        return sum(self.hub.file_bytes.values()) - self.parked_bytes() + self.s3.body_bytes

    def parked_bytes(self) -> int:
        return self.hub.file_bytes.get(self._parked, 0)

    def fill(self) -> None:
        for kind, count in KINDS.items():
            for number in range(count):
                files = {"config.json": b"{}", "model.safetensors": f"{kind} {number}".encode() * 500}
                self._add(kind, f"m{number:02}", files)
        data = os.urandom(PARKED_BYTES)
        self.hub.add_commit("org/parked", {"model.safetensors": data})
        self._parked = self.hub._hashes(data)[0]

    def _add(self, kind: str, name: str, files: dict[str, bytes]) -> None:
        if kind in ("open", "gated"):
            self.hub.add_commit(f"{kind}/{name}", files)
            if kind == "gated":
                self.hub.gate(f"{kind}/{name}", TOKEN)
            self.models.setdefault(kind, []).append(f"hf://{kind}/{name}")
            return
        for path, data in files.items():
            self.s3.put(kind, "models", f"{kind}-{name}/{path}", data)
        self.models.setdefault(kind, []).append(f"s3://models/{kind}-{name}")


@pytest.fixture
def site(release: Release) -> Iterator[Site]:
    with HubStub() as hub, Tenants() as s3, tempfile.TemporaryDirectory(prefix="cached-upgrade-") as folder:
        Path(folder).chmod(0o755)
        daemon = DaemonProcess(Path(folder, "daemon"), hub_endpoint=hub.endpoint, s3_endpoint=s3.endpoint)
        daemon.config(socket_mode="0666", retries=20)
        daemon.socket.parent.chmod(0o755)
        daemon.environment.update(s3.add("AKIADAEMON", "own"))
        site = Site(hub, s3, daemon, release)
        site.fill()
        keys, token = s3.add("AKIACALLER", "caller"), {"HF_TOKEN": TOKEN}
        site.users = {
            "open": [Person(daemon, 4001)],
            "gated": [Person(daemon, 4002, **token), Person(daemon, 4003, **token)],
            "own": [Person(daemon, 4001)],
            "caller": [Person(daemon, 4004, **keys)],
        }
        yield site
        daemon.close()


def acquire_all(person: Person, uris: list[str]) -> list[Lease]:
    """Each is leased, read whole and released, in one process of the person's."""

    def work() -> list[Lease]:
        leases = []
        with person.client() as client:
            for uri in uris:
                lease = client.acquire(uri)
                read(lease.path)
                lease.release()
                copy = object.__new__(Lease)  # Without the lock, which cannot be sent.
                copy.__dict__.update(path=lease.path, digest=lease.digest, hit=lease.hit, stale=lease.stale)
                leases.append(copy)
        return leases

    return person.do(work)


def refused(person: Person, uris: list[str]) -> int:
    """How many of them the person is denied."""

    def work() -> int:
        count = 0
        with person.client() as client:
            for uri in uris:
                with contextlib.suppress(SourceDenied):
                    client.acquire(uri)
                    continue
                count += 1
        return count

    return person.do(work)


def rows(root: Path) -> dict[str, int]:
    """How many each table has; -1 for those that this version has not."""
    found = {}
    with contextlib.closing(sqlite3.connect(f"file:{root}/index.db?mode=ro", uri=True)) as index:
        for table in TABLES:
            with contextlib.suppress(sqlite3.OperationalError):
                found[table] = index.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return {table: found.get(table, -1) for table in TABLES}


def asked(site: Site, action: Callable[[Person, list[str]], list[Lease]]) -> dict[str, list[list[Lease]]]:
    return {kind: [action(user, site.models[kind]) for user in users] for kind, users in site.users.items()}


def test_a_root_of_the_release_before_serves_every_model_without_fetching(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon, hub, s3 = site.daemon, site.hub, site.s3
    daemon.environment.update(site.release.environment)
    daemon.start()
    before = asked(site, acquire_all)
    with daemon.client() as client:
        for uri in site.models["open"][:5]:
            client.call("POST", "/v1/pin", {"ref": uri})
    holder, leased = site.users["gated"][0], site.models["gated"][0]
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(User(daemon.socket, site.release.environment))
        waiter = stack.enter_context(User(daemon.socket, site.release.environment))
        assert user.package.is_relative_to(site.release.folder)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        kept = user.acquire(site.models["open"][10])
        held = stack.enter_context(holder.holding(leased))
        hub.reset()
        hub.cut_after(CUT)
        waiting = pool.submit(waiter.acquire, PARKED)
        until(lambda: hub.bytes_served == CUT)
        daemon.stop()
        wrote, landed = rows(daemon.root), site.parked_bytes()
        hub.reset(), s3.reset()
        for name in site.release.environment:
            del daemon.environment[name]

        begun, said = time.monotonic(), daemon.log.stat().st_size
        daemon.start()
        opened = time.monotonic() - begun
        found, lines = rows(daemon.root), daemon.log.read_bytes()[said:].decode().splitlines()
        assert "error" not in waiting.result(60), "who waited through the upgrade gets its model"
        assert site.parked_bytes() <= PARKED_BYTES - landed // 2, "a parked download goes on"
        begun = time.monotonic()
        hub.requests.clear()
        after = asked(site, acquire_all)
        served = time.monotonic() - begun
        requests = len(hub.requests), len(s3.requests)
        proofs = 2 * (KINDS["own"] + KINDS["caller"])  # A byte of each file in a bucket: that is how it is proved.
        assert site.file_bytes() == proofs
        assert [[lease.digest for lease in each] for each in _flat(after)] == [
            [lease.digest for lease in each] for each in _flat(before)
        ]
        assert all(not lease.stale for each in _flat(after) for lease in each)

        stranger, wrong = (
            Person(daemon, 4009, HF_TOKEN="hf_wrong"),
            Person(daemon, 4009, AWS_ACCESS_KEY_ID="AKIANOBODY"),
        )
        closed = site.models["gated"], site.models["caller"]
        assert refused(stranger, closed[0]) == len(closed[0]) and refused(wrong, closed[1]) == len(closed[1])
        assert not any(stranger.can_read(each.path) for kind in ("gated", "caller") for each in after[kind][0][:5])

        with daemon.client() as client:
            shown = client.call("GET", "/v1/snapshots")["snapshots"]
            assert sum(each["pinned"] for each in shown) == 5
            left = client.call("POST", "/v1/gc", {"free": 1 << 40}) and client.call("GET", "/v1/snapshots")["snapshots"]
        digests = {each["digest"] for each in left}
        assert {held.digest, kept["digest"]} <= digests, "leases that were taken before hold"
        assert len(digests) == 5 + 2 + 1, "and with the pins and the one that waited they are all that holds"
        assert holder.can_read(held.path) and Path(kept["path"], "config.json").read_bytes() == b"{}"
    with capsys.disabled():
        change = ", ".join(f"{table} {wrote[table]} → {found[table]}" for table in TABLES)
        print(
            f"\nupgrade: {sum(KINDS.values())} models, 0 bytes fetched ({proofs} to prove), open after {opened:.2f} s, "
            f"all asked for again in {served:.1f} s with {requests[0]} requests to the Hub and {requests[1]} to S3; "
            f"rows: {change}"
        )
        print("\n".join(f"  {line}" for line in lines if not re.search(r"event=(piece|fill|daemon)\.", line)))
    _check_that_the_release_before_takes_it_or_says_why_not(site)


def _flat(asked: dict[str, list[list[Lease]]]) -> list[list[Lease]]:
    return [each for kind in sorted(asked) for each in asked[kind]]


def _check_that_the_release_before_takes_it_or_says_why_not(site: Site) -> None:
    site.daemon.stop()
    site.daemon.environment.update(site.release.environment)
    if preflight.FORMAT == 1:
        site.daemon.start()
        return
    process = site.daemon.spawn()
    assert process.wait(30) != 0
    last = site.daemon.log.read_text().splitlines()[-1]
    assert f"has layout version {preflight.FORMAT}, and this cached knows 1; use the version of cached" in last
    assert "Traceback" not in last
