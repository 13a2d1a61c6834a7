from __future__ import annotations

import asyncio
import functools
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cached import Client, DaemonUnavailable
from tests.daemon_process import DaemonProcess, clean_environment
from tests.servers.hub import HubStub

HEAVY = ("fsspec", "aiohttp", "torch", "ray", "huggingface_hub", "sqlite_utils", "typer", "rich", "asyncio", "xxhash")


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = f"import cached, sys; cached.Client; print([m for m in {HEAVY!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_without_a_daemon_the_error_comes_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnavailable, match="start it, or set CACHED_SOCKET"):
        Client(tmp_path / "none").acquire("org/name")


def test_a_socket_that_nobody_answers_on_ends_in_the_time_out(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(DaemonUnavailable, match="did not answer"):
            Client(path, timeout=0.2).call("GET", "/v1/status")


def test_the_callers_timeout_bounds_the_wait_for_a_daemon_that_hangs(daemon: DaemonProcess) -> None:
    with HubStub() as hub:
        hub.add_commit("org/name", {"config.json": b"{}"})
        process = daemon.start(hub_endpoint=hub.endpoint).process
        assert process
        hub.pause()
        with daemon.client(timeout=600) as client:  # Without the bound, the test would end in its own time limit.
            freeze = functools.cache(lambda: process.send_signal(signal.SIGSTOP))
            for hung in (lambda progress: freeze(), None):  # In the middle of the answer, and before it.
                with pytest.raises(DaemonUnavailable, match="did not answer in time"):
                    client.acquire("org/name", timeout=2, progress=hung)
        hub.resume()


def test_a_lease_survives_the_client_and_the_daemon(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        lease = client.acquire(f"file://{model}")
    assert daemon.cli("gc", "--free", "1TiB").returncode == 5
    daemon.kill()
    daemon.start()
    assert daemon.cli("gc", "--free", "1TiB").returncode == 5
    assert (Path(lease.path) / "config.json").read_bytes() == b"{}"
    lease.release()
    daemon.cli("gc", "--free", "1TiB")
    assert not Path(lease.path).exists()


def test_a_lease_ends_with_its_process_however_it_dies(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    code = "import cached, sys; l = cached.Client().acquire(sys.argv[1]); print(l.path, flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, f"file://{model}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(CACHED_SOCKET=str(daemon.socket)),
    )
    assert holder.stdout is not None
    path = Path(holder.stdout.readline().strip())
    with daemon.client() as client:
        leases = client.call("GET", "/v1/leases")["leases"]
        assert [lease["pid"] for lease in leases] == [holder.pid]
        daemon.cli("gc", "--free", "1TiB")
        assert path.exists()
        holder.kill()
        holder.wait()
        assert client.call("GET", "/v1/leases")["leases"] == []
    daemon.cli("gc", "--free", "1TiB")
    assert not path.exists()
    holder.stdin and holder.stdin.close()
    holder.stdout.close()


def test_one_client_serves_many_threads(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        leases = []
        threads = [threading.Thread(target=lambda: leases.append(client.acquire(f"file://{model}"))) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({lease.path for lease in leases}) == 1
        assert len(leases) == 32
        for lease in leases:
            lease.release()


def test_a_kept_connection_survives_a_daemon_restart(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        client.acquire(f"file://{model}").release()
        daemon.stop()
        daemon.start()
        client.acquire(f"file://{model}").release()


async def test_a_cancelled_acquire_leaves_no_lease(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model(files={"config.json": b"{}", "w": 64 << 20})
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        started = threading.Event()
        task = asyncio.create_task(client.acquire_async(f"file://{model}", progress=lambda _: started.set()))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ready = await asyncio.to_thread(client.pull, f"file://{model}")  # The fill goes on for whoever asks next.
        assert client.call("GET", "/v1/leases")["leases"] == []
        assert Path(ready.path, "w").stat().st_size == 64 << 20


async def test_acquire_async_gives_the_same_lease(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        lease = await client.acquire_async(f"file://{model}")
        again = client.acquire(f"file://{model}")
        assert (lease.path, lease.digest) == (again.path, again.digest)
        assert again.hit and not lease.hit
        lease.release()
        again.release()
        assert client.path(f"file://{model}").path == lease.path


def test_one_thread_keeps_one_connection(daemon: DaemonProcess, make_model: Callable[..., Path]) -> None:
    model = make_model()
    daemon.start(protocols=["file"], file_roots=[str(model.parent)])
    with daemon.client() as client:
        client.pull(f"file://{model}")
        (before,) = client._connections._idle
        local = before._http.sock
        for _ in range(3):
            client.pull(f"file://{model}")
            client.call("GET", "/v1/status")
        assert client._connections._idle == [before]
        assert before._http.sock is local


def test_what_a_silent_daemon_may_have_heard_is_not_said_again(tmp_path: Path) -> None:
    """A kept connection on which nothing comes: the request is on its way, and `gc` is not to be done twice."""
    heard: list[bytes] = []
    silent = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                while request := connection.recv(1 << 16):
                    heard.append(request)
                    if len(heard) == 1:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    else:
                        silent.wait(30)
                connection.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client = Client(tmp_path / "s", timeout=0.5)
        assert client.call("GET", "/v1/status") is not None
        with pytest.raises(DaemonUnavailable, match="did not answer in time"):
            client.call("POST", "/v1/gc", {})
        silent.set()
        client.close()
        listener.shutdown(socket.SHUT_RDWR)  # What came before is accepted still.
        server.join()
    requests = [line for line in b"".join(heard).splitlines() if line.endswith(b" HTTP/1.1")]
    assert requests == [b"GET /v1/status?api=2 HTTP/1.1", b"POST /v1/gc HTTP/1.1"]
