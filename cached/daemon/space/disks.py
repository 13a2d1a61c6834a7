"""All the roots of this node: the search for the disk that has a model, and for one that can take the next."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cached.config import Config
from cached.daemon.runtime.sd_notify import notify
from cached.daemon.space.disk import Disk
from cached.errors import CachedError, StoreDegraded
from cached.model import Digest
from cached.store.index.hits import Known
from cached.store.store import Store

log = logging.getLogger("cached.disk")


@dataclass(frozen=True, slots=True)
class Missing:
    """A root that could not be used at the start, and the reason."""

    root: Path
    why: str


class Disks:
    """The disks that could be opened, in the order of the settings."""

    def __init__(self, stores: list[Store], missing: list[Missing]) -> None:
        self._all = [Disk(store, self.say_how_we_are) for store in stores]
        self.missing = missing

    @classmethod
    def open(cls, config: Config) -> Disks:
        """Claim every root and make its index agree with its files. A root that fails is left out and listed as
        missing; raise the first error when all fail."""
        stores: list[Store] = []
        missing: list[Missing] = []
        first: CachedError | None = None
        with ExitStack() as opened:
            for root in config.all_roots:
                try:
                    stores.append(Store(replace(config, root=root)))
                    opened.callback(stores[-1].close)
                except (CachedError, OSError) as error:
                    failure = error if isinstance(error, CachedError) else StoreDegraded(f"{root}: {error}.")
                    first = first or failure
                    missing.append(Missing(root, failure.message))
                    log.error("disk.missing", extra={"root": str(root), "why": failure.message})
            if not stores and first is not None:
                raise first
            opened.pop_all()
        return cls(stores, missing)

    def __iter__(self) -> Iterator[Disk]:
        return iter(self._all)

    @property
    def first(self) -> Disk:
        return self._all[0]

    @property
    def claims(self) -> list[int]:
        """File descriptors whose locks are the claims on the roots."""
        return [disk.store.claim for disk in self._all]

    def known(self, ref: str, whos: Callable[[Disk], Sequence[str] | None]) -> list[tuple[Disk, Known]]:
        """Return the READY snapshots that the ref last meant to one of `whos`, each with its disk, the latest answer
        first."""
        found = [(disk, known) for disk in self._all for known in disk.meanings(ref, whos(disk))]
        return sorted(found, key=lambda each: -each[1].checked_at) if len(found) > 1 else found

    def servable(self, disk: Disk, snapshot: Digest) -> bool:
        """Return True if nothing is known against handing out a READY snapshot."""
        return snapshot not in disk.unsound and os.path.exists(disk.store.snapshots.manifest(snapshot))

    def at(self, path: str) -> Disk:
        """Return the disk that a path of ours is on."""
        return next(disk for disk in self._all if path.startswith(f"{disk.root}/"))

    def blob(self, digest: Digest, but: Disk) -> Path | None:
        """Return the path of a copy on another disk, one that is not degraded, if the copy is not known to be damaged;
        None if there is none. Synchronous."""
        for disk in self._all:
            if disk is but or disk.degraded is not None:
                continue
            if disk.query("SELECT 1 FROM blob WHERE digest = ? AND NOT damaged", digest.hex):
                return disk.store.blobs.path(digest)
        return None

    def doubt(self, copy: Path) -> None:
        """Report that this copy does not match its digest, so that the disk that has it checks it."""
        self.at(str(copy)).suspect(Digest(copy.name), "", "a copy of it failed its check")

    @property
    def writable(self) -> list[Disk]:
        return [disk for disk in self._all if disk.degraded is None]

    @property
    def problem(self) -> str | None:
        """A description of what is wrong with the disks, in one line; None when nothing is."""
        troubles = [(disk.root, disk.degraded) for disk in self._all if disk.degraded is not None]
        troubles += [(each.root, each.why) for each in self.missing]
        return " ".join(f"{root}: {why}" for root, why in troubles) or None

    def require_writable(self) -> None:
        """Raise StoreDegraded, with the reason, when no disk can be written to."""
        if not self.writable:
            raise StoreDegraded(self.first.degraded or "No root can be written to; see `cached status`.")

    def say_how_we_are(self) -> None:
        """Set the status text of systemd, so that it shows the reason when nothing is fetched."""
        roots = ", ".join(str(disk.root) for disk in self._all)
        notify(f"STATUS=degraded: {self.problem}" if self.problem else f"STATUS=serving {roots}")

    def close(self) -> None:
        for disk in self._all:
            disk.store.close()
