"""Deploy one model twice with Ray Serve LLM through the cache, and show that the second time the origin is not asked.

Everything is real: the daemon, an S3 server behind a proxy that counts, Ray Serve, vLLM. Exit code 0 only when the
table shows what it should, and nothing is left running.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console

from tests.daemon_process import DaemonProcess
from tests.demo import leftovers
from tests.demo.report import Row, problems, show
from tests.servers.proxy import CountingProxy
from tests.servers.rclone import RcloneS3
from tests.waiting import until

BUCKET, PREFIX, MODEL = "models", "tiny-llama", "tiny"
NOT_OURS = ("CACHED_", "HF_", "AWS_", "GOOGLE_", "RAY_")  # The user's own settings must not decide what is shown.
LONGEST_FOLDER = 40  # Ray's sockets are below it, and a socket's path may have 107 bytes.


def main() -> int:
    for name in [name for name in os.environ if name.startswith(NOT_OURS)]:
        del os.environ[name]
    mark = os.environ[leftovers.MARK] = uuid.uuid4().hex
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(width=110 if not sys.stdout.isatty() else None)
    found: list[str] = []
    try:
        found = _run(console)
    except KeyboardInterrupt:
        found = ["Interrupted."]
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # Nothing may stop the cleaning up.
        found += [f"Still running at the end, and ended now: {command}" for command in leftovers.end(mark)]
    for problem in found:
        console.print(f"[red]✗[/red] {problem}", soft_wrap=True)
    if not found:
        console.print("[green]✓[/green] The second deploy asked the origin for nothing. Nothing is left running.")
    return 1 if found else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(console: Console) -> list[str]:
    """Measure and show; what was untrue."""
    with ExitStack() as stack:
        folder = _folder()
        stack.callback(leftovers.remove_tree, folder)
        stack.callback(_quietly)
        console.print("Making a small Llama with random weights …")
        s3 = stack.enter_context(RcloneS3(folder / "s3"))
        model_bytes = _make_model(s3)
        proxy = stack.enter_context(CountingProxy(s3.endpoint))
        daemon = DaemonProcess(folder / "cached")
        stack.callback(daemon.close)
        daemon.environment.update(s3.credentials)
        daemon.start(s3_endpoint=proxy.endpoint, max_age="1h")
        stack.callback(daemon.stop)
        console.print("Starting Ray Serve …")
        rows = _deploys(stack, console, folder / "ray", daemon, proxy)
        show(rows, console)
        return problems(rows, model_bytes)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cached-demo-"))
    if len(str(folder)) > LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="cached-demo-", dir="/tmp"))
    return folder


def _make_model(s3: RcloneS3) -> int:
    from tests.demo.llama import make_llama

    folder = make_llama(s3.folder / s3.bucket(BUCKET) / PREFIX)
    return sum(path.stat().st_size for path in folder.iterdir())


def _deploys(
    stack: ExitStack, console: Console, folder: Path, daemon: DaemonProcess, proxy: CountingProxy
) -> list[Row]:
    from serve_integration import build_openai_app
    from tests.demo.local_ray import LocalRay, serving_args

    local = stack.enter_context(LocalRay(folder))
    arguments = serving_args(MODEL, f"s3://{BUCKET}/{PREFIX}")
    arguments["cached"] = {"socket": str(daemon.socket), "fallback": "error"}
    rows = []
    for number in (1, 2):
        console.print(f"Deploy {number}: starting a replica with vLLM …")
        proxy.reset()
        ordered, started = time.time(), time.monotonic()
        local.deploy(build_openai_app(arguments), MODEL)
        text = local.first_chat(MODEL, MODEL)
        answered = time.monotonic() - started
        origin = proxy.bytes_down
        loaded = local.loaded()[-1]
        console.print(f"Deploy {number}: the model answered {text!r}.", markup=False, highlight=False)
        rows.append(Row(origin, loaded.hit, loaded.seconds, loaded.at - ordered, answered))
        _check(len(local.loaded()) == number, f"{len(local.loaded())} replicas have loaded a model, not {number}")
        _check(loaded.path.startswith(str(daemon.root)), f"the replica read {loaded.path}, not the cache")
        _check(_leased(daemon), "the running replica holds no lease")
        local.delete(MODEL)
        _check(_soon(lambda: not _leased(daemon)), "the lease has outlived its replica")
    return rows


def _leased(daemon: DaemonProcess) -> bool:
    with daemon.client() as client:
        return any(snapshot["leased"] for snapshot in client.call("GET", "/v1/snapshots")["snapshots"])


def _soon(rule: Callable[[], bool]) -> bool:
    """Whether it comes to hold: a replica that Serve has given up is still dying for a moment on a busy machine."""
    try:
        until(rule)
    except AssertionError:
        return False
    return True


def _check(true: bool, otherwise: str) -> None:
    if not true:
        raise SystemExit(f"The demo has failed: {otherwise}.")


def _quietly() -> None:
    """From here on it only cleans up, which no signal may stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
