"""A second Ray node on this machine, with a daemon of its own behind the same paths.

It runs in a mount namespace, where other folders lie over the daemon's root and the folder of its socket, and under a
host name of its own. The mounts end with the last process in there: there is nothing to unmount. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

from cached import Client
from tests.daemon_process import DaemonProcess
from tests.waiting import until

_RAY = Path(sys.executable).with_name("ray")
# $1 is the host name; then pairs: what to lay over what. It says so when it has, and stays.
_KEEP = """
set -e
hostname "$1"
shift
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
echo laid
exec sleep infinity
"""


def may_make_nodes() -> bool:
    return os.geteuid() == 0 and bool(shutil.which("unshare")) and bool(shutil.which("nsenter"))


class FarDaemon(DaemonProcess):
    """To whoever looks from the far node it has the root and the socket of `near`; from here they are its own."""

    def __init__(self, near: DaemonProcess, folder: Path) -> None:
        super().__init__(folder)
        self._near = near
        for place in (near.folder, folder):
            place.mkdir(parents=True, exist_ok=True)

    def overlays(self) -> list[str]:
        """Pairs: what lies over what."""
        return [str(self.folder), str(self._near.folder), str(self.socket.parent), str(self._near.socket.parent)]

    def config(self, **settings: Any) -> Path:
        path = super().config(**settings)
        text = path.read_text().replace(str(self.root), str(self._near.root))
        path.write_text(text.replace(str(self.socket), str(self._near.socket)))
        return path


class FarNode:
    """A block in which Ray has another node; its daemon runs once it is started: `far.daemon.start(far.enter)`.

    `host` is its name, and the resource that a bundle asks for to be placed there. The GPUs are promised only.
    """

    def __init__(self, near: DaemonProcess, host: str = "far", gpus: int = 0) -> None:
        self.host = host
        self._gpus = gpus
        self._folder = Path(tempfile.mkdtemp(prefix="cached-far-"))
        self.daemon = FarDaemon(near, self._folder / "daemon")
        self.id = ""
        self.enter: tuple[str, ...] = ()
        self._keeper: subprocess.Popen[str] | None = None
        self._ray: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
            self.join()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _open(self) -> None:
        unshare = ["unshare", "--mount", "--uts", "--propagation=private", "sh", "-c", _KEEP, "keep", self.host]
        self._keeper = subprocess.Popen([*unshare, *self.daemon.overlays()], stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout
        assert self._keeper.stdout.readline() == "laid\n"
        namespaces = f"/proc/{self._keeper.pid}/ns"
        self.enter = ("nsenter", f"--mount={namespaces}/mnt", f"--uts={namespaces}/uts")

    def join(self) -> None:
        """Start Ray there; again after `leave`."""
        command = [str(_RAY), "start", "--block", "--address", ray.get_runtime_context().gcs_address]
        command += ["--num-cpus=8", f"--num-gpus={self._gpus}", "--object-store-memory=104857600"]
        command += ["--dashboard-agent-listen-port=0"]  # The default one is the other node's.
        command += [f"--resources={json.dumps({self.host: 8})}"]
        with (self._folder / "ray.log").open("ab") as log:
            self._ray = subprocess.Popen([*self.enter, *command], stdout=log, stderr=log, start_new_session=True)
        until(lambda: bool(_alive(self.host)), 60)
        (self.id,) = _alive(self.host)

    def leave(self) -> None:
        """SIGKILL, as a machine that loses its power: nothing there has time to say goodbye."""
        if self._ray is not None:
            os.killpg(self._ray.pid, signal.SIGKILL)
            self._ray.wait()
            until(lambda: not _alive(self.host), 60)
            self._ray = None

    def _end(self) -> None:
        self.leave()
        self.daemon.close()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
        shutil.rmtree(self._folder)


def _alive(host: str) -> list[str]:
    return [str(node["NodeID"]) for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == host]


def leases(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Those that are held now, as the daemon sees them."""
    with Client(daemon.socket) as client:
        return [lease for lease in client.call("GET", "/v1/leases")["leases"] if lease["held"]]
