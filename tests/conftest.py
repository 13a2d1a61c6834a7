"""Fixtures for every test: a daemon of its own, and the promise that it is gone afterwards."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess

for _name in [name for name in os.environ if name.startswith(("CACHED_", "HF_", "AWS_", "AZURE_", "GOOGLE_"))]:
    del os.environ[_name]  # A developer's own settings and credentials must not decide a test.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["NO_GCE_CHECK"] = "true"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Tests start `cached` hundreds of times; compiling it once is enough.

if threading.current_thread() is threading.main_thread():
    # A run in the background ignores SIGINT, and so would every program that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Not started yet, so that a test can choose its settings: `daemon.start(file_roots=[…], …)`."""
    process = DaemonProcess(tmp_path / "daemon")
    yield process
    process.close()


@pytest.fixture
def reachable() -> Iterator[DaemonProcess]:
    """Like `daemon`, but every user of the node can come to its root and to its socket."""
    with tempfile.TemporaryDirectory(prefix="cached-reachable-") as folder:
        Path(folder).chmod(0o755)
        process = DaemonProcess(Path(folder, "daemon"), socket_mode="0666")
        process.socket.parent.chmod(0o755)
        yield process
        process.close()


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder that looks like a model: `make_model("name", {"model.safetensors": 1000})`."""

    def make(name: str = "model", files: dict[str, int | bytes] | None = None) -> Path:
        folder = tmp_path / "models" / name
        for path, content in (files or {"config.json": b"{}", "model.safetensors": 100_000}).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(os.urandom(content) if isinstance(content, int) else content)
        return folder

    return make


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """pytest would look for minutes for what random bytes have in common."""
    if op != "==" or not (isinstance(left, bytes) and isinstance(right, bytes)) or len(left) + len(right) < 1000:
        return None
    pairs = enumerate(zip(left, right, strict=False))
    alike = next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(left), len(right)))
    return [f"{len(left)} bytes == {len(right)} bytes", f"the first {alike} are the same"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out, and why: in a line, because it is a part of the result."""
    why = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ()))
    if why:
        reasons = "; ".join(f"{count} because {reason}" for reason, count in sorted(why.items()))
        terminalreporter.write_line(f"Left out: {sum(why.values())} tests: {reasons}.", yellow=True)
