"""A fault origin, a daemon that fetches from it, and what must hold after every fault."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached import CachedError, Client, DaemonUnavailable
from cached.model import PIECE_BYTES
from cached.wire import Ready
from tests.daemon_process import DaemonProcess
from tests.servers import FaultOrigin

PROTOCOLS = ("s3", "hub", "http")
SIZES = {"small": 50_000, "large": PIECE_BYTES + 1_000_003}  # One piece and two.
TOKEN, SECRET = "hf_canaryTOKENcanaryTOKENcanary", "SECRETcanarySECRETcanarySECRETcanary"
PATIENCE = 40.0  # Seconds after which a pull counts as hung.

_BASE = os.urandom(3 * PIECE_BYTES)
_NUMBERS = itertools.count()
_SNAPSHOT = re.compile(r"[0-9a-f]{64}(\.json|\.locks)?\Z")


@dataclass(frozen=True)
class Target:
    """One model of one file, with bytes that no other has."""

    protocol: str
    model: str
    path: str
    data: bytes
    uri: str

    @property
    def pieces(self) -> int:
        return 2 if len(self.data) > PIECE_BYTES else 1

    @property
    def middle(self) -> int:
        """Which body to strike so that something of the file has been asked for before, where it has two pieces."""
        return self.pieces


class Rig:
    def __init__(self, origin: FaultOrigin, daemon: DaemonProcess) -> None:
        self.origin, self.daemon = origin, daemon
        self.messages: list[str] = []
        self._client: Client | None = None
        self._audited: set[tuple[int, int]] = set()

    def start(self, **settings: Any) -> Rig:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": TOKEN}
        self.daemon.environment.update(keys)
        where = {"hub_endpoint": self.origin.endpoint, "s3_endpoint": self.origin.endpoint, "s3_region": "us-east-1"}
        bounds = {"read_timeout": "1500ms", "resolve_timeout": "3s", "check_timeout": "2s", "retries": 4}
        more = {"limit": "1GiB", "protocols": ["hf", "s3", "http", "https"], "private_networks": ["127.0.0.0/8"]}
        self.daemon.start(**{**where, **bounds, **more, **settings})
        self._client = self.daemon.client()
        return self

    def make(self, protocol: str, size: str = "small", path: str = "") -> Target:
        """A sound model; the Hub promises a sha256 of the large one and a git-sha1 of the small one."""
        model = f"m{next(_NUMBERS)}"
        path = path or ("config.json" if size == "small" else "model.safetensors")
        data = self.bytes(SIZES[size])
        self.origin.put(model, {path: data})
        return Target(protocol, model, path, data, self.origin.uri(protocol, model, path))

    @staticmethod
    def bytes(size: int) -> bytes:
        """No two of them have a byte in common for long, in any piece."""
        start = random.randrange(len(_BASE) - size)
        return os.urandom(16) + _BASE[start + 16 : start + size]

    def pull(self, target: Target, **options: Any) -> Ready | CachedError:
        """The answer or the error, which must have a name; a hang is a failure."""
        assert self._client is not None
        try:
            return self._client.pull(target.uri, **{"timeout": PATIENCE, "max_age": 0, **options})
        except DaemonUnavailable:
            raise
        except CachedError as error:
            self.messages.append(error.message)
            assert type(error) is not CachedError, f"an error without a name: {error.message}"
            return error

    def check(self, target: Target, outcome: Ready | CachedError, *versions: bytes) -> Ready | CachedError:
        """Whole bytes of one version that the origin had, or an error; and nothing amiss on the disk."""
        if isinstance(outcome, Ready):
            found = {path.name: path.read_bytes() for path in Path(outcome.path).iterdir()}
            assert list(found) == [target.path]
            assert found[target.path] in (versions or (target.data,)), "bytes that the origin never had"
        self.audit()
        return outcome

    def survives(self, target: Target, *versions: bytes) -> Ready | CachedError:
        """One pull among faults: right bytes or a named error. Once the origin is sound again, right bytes."""
        outcome = self.check(target, self.pull(target), *versions)
        self.origin.heal()
        after = self.check(target, self.pull(target), *versions)
        assert isinstance(after, Ready), f"the fault outlived itself: {after!r}"
        assert self.parts() == [], "a download that ended well left something behind"
        return outcome

    def recovers(self, target: Target, *versions: bytes) -> Ready:
        """One pull among faults that must end well all by itself."""
        outcome = self.survives(target, *versions)
        assert isinstance(outcome, Ready), repr(outcome)
        return outcome

    def refuses(self, target: Target, *kinds: type[CachedError]) -> CachedError:
        """One pull among faults that must end in one of these errors."""
        outcome = self.survives(target)
        assert isinstance(outcome, kinds), repr(outcome)
        return outcome

    def parts(self) -> list[str]:
        return self.daemon.files("ingest")

    def audit(self) -> None:
        """Every blob has the digest that it is called by; nothing lies where it has no business."""
        for path in (self.daemon.root / "blobs").rglob("*"):
            if path.suffix == ".pieces":  # Beside a large blob: the checksums of its pieces.
                continue
            with contextlib.suppress(FileNotFoundError):  # Evicted meanwhile.
                status = path.stat()
                if path.is_file() and (status.st_ino, status.st_mtime_ns) not in self._audited:
                    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
                    self._audited.add((status.st_ino, status.st_mtime_ns))
        strange = [p.name for p in (self.daemon.root / "snapshots").iterdir() if not _SNAPSHOT.match(p.name)]
        assert strange == []
        assert self.daemon.files("quarantine") == []

    def leaks(self) -> list[str]:
        """Where a secret has got to, beside the requests to the origin that it is for."""
        found = [f"an error: {message}" for message in self.messages if _secret(message.encode())]
        found += [f"cdn: {seen.path}" for seen in self.origin.requests if seen.server == "cdn" and _told(seen.headers)]
        for path in (self.daemon.log, self.daemon.folder, *self.daemon.root.rglob("*")):
            if _secret(str(path).encode()) or (path.is_file() and _secret(path.read_bytes())):
                found.append(str(path))
        return found

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self.daemon.close()


def _secret(data: bytes) -> bool:
    return TOKEN.encode() in data or SECRET.encode() in data


def _told(headers: Mapping[str, str]) -> bool:
    return "authorization" in headers or "x-amz-security-token" in headers or _secret(repr(headers).encode())
