"""A real daemon: `cached serve` as a process of its own, with a root, a socket and settings of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cached import Client

CACHED = Path(sys.executable).with_name("cached")
START_SECONDS = 30.0
_CLEARED = ("CACHED_", "HF_", "AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR", "NOTIFY_SOCKET", "WATCHDOG_")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that the daemon or a source would read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CLEARED)}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", **more}


class DaemonProcess:
    """`start` waits until it is ready; `stop` is SIGTERM, `kill` is SIGKILL; the root stays between starts."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.root = folder / "root"
        # Not below the folder: a unix socket's path may have 107 bytes, and pytest's folders can be longer.
        self._sockets = tempfile.TemporaryDirectory(prefix="cached-")
        self.socket = Path(self._sockets.name) / "s"
        self.log = folder / "daemon.log"
        self.environment: dict[str, str] = {}
        self._settings: dict[str, Any] = {"keep_free": "0B", "min_residency": 0, **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def config(self, **settings: Any) -> Path:
        """Write the config file, these settings added to the earlier ones."""
        self._settings.update(settings)
        lines = [] if self._settings.get("roots") else [f"root = {_toml(str(self.root))}"]
        lines += [f"socket = {_toml(str(self.socket))}"]
        lines += [f"{name} = {_toml(value)}" for name, value in self._settings.items()]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def spawn(self, prefix: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[bytes]:
        """Start without waiting; `prefix` is a command to run it under."""
        command = [*prefix, str(CACHED), "serve", "--config", str(self.config(**settings))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=clean_environment(**self.environment))
        return self.process

    def start(self, prefix: tuple[str, ...] = (), **settings: Any) -> DaemonProcess:
        process = self.spawn(prefix, **settings)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the daemon did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.01)  # Polling a condition, with a deadline.
        return self

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def restart(self, **settings: Any) -> DaemonProcess:
        """With these settings added to the earlier ones; it need not have been started before."""
        self.stop()
        return self.start(**settings)

    def kill(self) -> int:
        return self._end(signal.SIGKILL, 15.0)

    def _end(self, number: signal.Signals, timeout: float) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def close(self) -> None:
        self.kill()
        self._sockets.cleanup()

    def client(self, **options: Any) -> Client:
        return Client(self.socket, **options)

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `cached` command against this daemon."""
        more = {"CACHED_SOCKET": str(self.socket), **environment}
        return subprocess.run(
            [str(CACHED), *arguments], capture_output=True, text=True, timeout=120, env=clean_environment(**more)
        )

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.call("GET", "/v1/status")

    def workers(self) -> list[int]:
        """The processes that fetch, once all of them are ready. Every other descendant is theirs."""
        assert self.process
        deadline = time.monotonic() + START_SECONDS
        while True:
            ready: list[int] = self.status()["workers"]
            if ready and set(ready) == set(_descendants(self.process.pid)):
                return ready
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.01)  # Polling a condition, with a deadline.

    def files(self, *folders: str) -> list[str]:
        """Every file below these folders of the root, relative to it."""
        wanted = folders or ("blobs", "snapshots", "ingest", "trash", "quarantine")
        return sorted(
            str(path.relative_to(self.root)) for f in wanted for path in (self.root / f).rglob("*") if path.is_file()
        )


def _descendants(pid: int) -> list[int]:
    """Children of all its threads, and theirs."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(word) for task in tasks for word in task.read_text().split()]
    return own + [grandchild for child in own for grandchild in _descendants(child)]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
