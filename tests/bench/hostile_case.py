"""Hits while somebody asks for whatever costs most: does one user's request keep another's hit waiting?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cached import CachedError, Client
from tests.bench.callers import percentiles
from tests.bench.case import Case, Options
from tests.bench.data import on_tmpfs, scratch
from tests.bench.report import Found
from tests.daemon_process import DaemonProcess

FILES = 10_000  # Of the place that is listed over and over.
SECONDS = 5.0  # Each attack.
_PROMISES = [f"s{number}-00001-of-09999.safetensors" for number in range(15)]
_PATTERNS = [f"*{number}*-?-{number}" for number in range(998)]

# By name: the verb and body of one request, which several threads of a process of its own send over and over.
ATTACKS: dict[str, tuple[str, dict[str, object]]] = {
    "many promises and patterns": ("/v1/acquire", {"uri": "promises", "require": "llm", "exclude": _PATTERNS}),
    "brackets": ("/v1/acquire", {"uri": "many", "include": ["[" * 1024] * 15}),
    "a long listing": ("/v1/plan", {"uri": "many", "require": "llm"}),
    "many patterns on a long listing": ("/v1/plan", {"uri": "many", "exclude": _PATTERNS}),
    "deep JSON": ("/v1/acquire", {"uri": "many", "include": [json.dumps([[0]] * 3000)[:1000]] * 16}),
}
THREADS = 8


def _measure(options: Options) -> Found:
    with scratch(1 << 28) as folder:
        return attacked(folder, FILES, SECONDS, options)


def attacked(folder: Path, files: int, seconds: float, options: Options) -> Found:
    models = folder / "models"
    _write(models / "warm", ["config.json"])
    _write(models / "promises", ["config.json", *_PROMISES])
    _write(models / "many", [f"d{number % 100}/model-{number:05}.json" for number in range(files)])
    daemon = DaemonProcess(folder / "daemon", protocols=["file"], file_roots=[str(models)], max_age=3600)
    try:
        daemon.start()
        daemon.workers()
        warm = f"file://{models}/warm"
        with daemon.client() as client:
            client.pull(warm)
            rows = {"idle": _row(client, warm, seconds)}
            for name, (verb, body) in ATTACKS.items():
                with _attack(daemon, verb, {**body, "uri": f"file://{models}/{body['uri']}"}):
                    rows[name] = _row(client, warm, seconds)
    finally:
        daemon.close()
    return Found("Hits, one caller, while another attacks", 1, rows, {}, "tmpfs" if on_tmpfs(folder) else "disk")


def _write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


def _row(client: Client, uri: str, seconds: float) -> dict[str, float]:
    taken: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = time.perf_counter()
        client.pull(uri)
        taken.append((time.perf_counter() - before) * 1000)
    return {
        "hits": len(taken),
        **{f"{which}_ms": value for which, value in percentiles(taken).items()},
        "most_ms": max(taken),
    }


@contextmanager
def _attack(daemon: DaemonProcess, verb: str, body: dict[str, object]) -> Iterator[None]:
    command = [sys.executable, "-m", __spec__.name, str(daemon.socket), verb]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert process.stdin
        process.stdin.write(json.dumps(body).encode())
        process.stdin.close()
        yield
    finally:
        process.kill()
        process.wait()


def _send(socket: str, verb: str, body: dict[str, object]) -> None:
    client = Client(socket)
    while True:
        try:
            client.call("POST", verb, body)
        except CachedError:  # Refused, which is as well.
            pass


if __name__ == "__main__":
    from threading import Thread

    given = json.load(sys.stdin)
    for _ in range(THREADS):
        Thread(target=_send, args=(sys.argv[1], sys.argv[2], given), daemon=True).start()
    time.sleep(3600)


HOSTILE_CASE = Case("hits-under-attack", _measure)
