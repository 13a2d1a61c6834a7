"""The node of a soak: sources that are as unkind as real ones, a daemon, and the models of its users."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached.config import Config
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub, Tenants
from tests.servers.tenants import Huge
from tests.soak.plan import BASE, GROUP, GUESSED, MODEL_BYTES, UNSAID, content

LIMIT = 64 << 20
WORK_TOKEN, EVIL_TOKEN = "hf_work", "hf_evil"
_OPTIONAL = {  # Bounds of the daemon, set low enough to be met. The shares of the four users are less than the limit.
    "user_share": 0.2,
    "max_model_size": "40MiB",
    "max_files": 20_000,
    "listing_timeout": "20s",
}


@dataclass(frozen=True)
class Site:
    hub: HubStub
    s3: Tenants
    daemon: DaemonProcess
    folder: Path
    work: dict[str, str]  # The environments of the working user,
    evil: dict[str, str]  # and of all hostile ones.


@contextlib.contextmanager
def site(new_models: list[str], residency: float) -> Iterator[Site]:
    """Running until the end of the block, and gone after it. `residency`: the daemon's `min_residency` in seconds."""
    with HubStub() as hub, Tenants() as s3, tempfile.TemporaryDirectory(prefix="cached-soak-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        work = {"HF_TOKEN": WORK_TOKEN, **s3.add("AKIAWORK", "work")}
        evil = {"HF_TOKEN": EVIL_TOKEN, **s3.add("AKIAEVIL", "evil")}
        for uri in (*BASE, *new_models):
            _publish(hub, s3, uri)
        _set_traps(hub, s3)
        daemon = DaemonProcess(folder / "daemon", min_residency=f"{residency:.0f}s", **_settings(hub, s3))
        daemon.socket.parent.chmod(0o755)
        try:
            daemon.start()
            os.chown(daemon.socket, -1, GROUP)
            yield Site(hub, s3, daemon, folder, work, evil)
        finally:
            daemon.close()


def _settings(hub: HubStub, s3: Tenants) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(Config)}
    return {
        "hub_endpoint": hub.endpoint,
        "s3_endpoint": s3.endpoint,
        "socket_mode": "0660",
        "limit": LIMIT,
        "protocols": ["hf", "s3", "http", "file"],
        **{name: value for name, value in _OPTIONAL.items() if name in known},
    }


def _publish(hub: HubStub, s3: Tenants, uri: str) -> None:
    """The model, for whom it is; in buckets the hostile tenant has something else under the same name."""
    files = {"config.json": b"{}", "README.md": b"# A model", "model.safetensors": content(uri)}
    scheme, _, place = uri.partition("://")
    if scheme == "hf":
        hub.add_commit(place, files)
        if place.startswith("closed/"):
            hub.gate(place, WORK_TOKEN)
        elif place == "org/shared":
            hub.gate(place, WORK_TOKEN, EVIL_TOKEN)
        return
    bucket, _, prefix = place.partition("/")
    for path, data in files.items():
        s3.put("work", bucket, f"{prefix}/{path}", data)
        other = content(uri, "evil") if path == "model.safetensors" else data
        if prefix != UNSAID:
            s3.put("evil", bucket, f"{prefix}/{path}", other)


def _set_traps(hub: HubStub, s3: Tenants) -> None:
    """What hostile users ask for."""
    s3.put("", "pub", "copy.json", b"{}")
    s3.endless.add("endless")
    for number in range(10):
        s3.put("", "huge", f"{number}/model.safetensors", Huge(LIMIT * (number + 1) // 10))
    for name, uri in (("claim", BASE[0]), ("claim-open", BASE[1])):
        commit = hub.add_commit(f"evil/{name}", {"config.json": b"{}", "model.safetensors": content(uri)})
        hub.overwritten[f"evil/{name}", commit, "model.safetensors"] = os.urandom(MODEL_BYTES)
    shards = {f"s{number}-00001-of-09999.safetensors": b"x" for number in range(15)}
    hub.add_commit("evil/shards", {"config.json": b"{}", **shards})
    hub.add_commit("evil/many", {f"deep/er/{number:04}.txt": b"%d" % number for number in range(2000)})
    hub.tag(f"closed/{GUESSED}", "v1", hub.repositories[f"closed/{GUESSED}"].refs["main"])
