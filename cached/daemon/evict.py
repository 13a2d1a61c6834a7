"""Making room: least recently used first, never what is leased, pinned or being filled. Choose purely, then act."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cached.model import Digest
from cached.store.leases import held
from cached.store.store import Store

log = logging.getLogger("cached.evict")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot as eviction sees it. `blobs` are its digests; what it frees depends on who shares them."""

    digest: Digest
    source: str
    used_at: float
    blobs: frozenset[str]
    kept: bool = False  # Leased or pinned.


@dataclass(frozen=True, slots=True)
class Victim:
    digest: Digest
    source: str
    frees: int
    why: str


@dataclass(frozen=True, slots=True)
class Freed:
    """What went (or would go), and how many bytes short of the wish that left it."""

    victims: tuple[Victim, ...]
    freed: int
    short: int


def choose(
    candidates: Iterable[Candidate], sizes: dict[str, int], held_blobs: frozenset[str], need: int
) -> list[Victim]:
    """The least recently used snapshots whose going frees `need` bytes; all that may go when that is not enough.

    A blob is freed with the last of its snapshots, and never while a fill holds it.
    """
    everyone = list(candidates)
    links = Counter(blob for candidate in everyone for blob in candidate.blobs)
    victims: list[Victim] = []
    for candidate in sorted(everyone, key=lambda c: (c.used_at, c.digest)):
        if need <= 0:
            break
        if candidate.kept:
            continue
        links.subtract(candidate.blobs)
        frees = sum(sizes.get(blob, 0) for blob in candidate.blobs if links[blob] == 0 and blob not in held_blobs)
        need -= frees
        victims.append(Victim(candidate.digest, candidate.source, frees, _why(candidate)))
    return victims


def _why(candidate: Candidate) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(candidate.used_at))
    return f"least recently used (last at {stamp}), to make room"


class Evictor:
    """Synchronous; the daemon calls it in a thread, one call at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def free(self, need: int, dry_run: bool = False) -> Freed:
        """Free at least `need` bytes if that can be: parked downloads, orphans, then snapshots."""
        before = self._taken()
        if not dry_run:
            self._store.drop_orphans()
            for key in self._store.parked():
                if before - self._taken() >= need:
                    break
                self._store.drop_parked(key)
        gone: list[Victim] = []
        refused: set[Digest] = set()
        while (missing := need - (before - self._taken())) > 0:
            plan = choose(self._candidates(refused), self._sizes(), self._held_blobs(), missing)
            if dry_run:
                planned = sum(victim.frees for victim in plan)
                return Freed(tuple(plan), planned, max(0, need - planned))
            if not plan:
                break
            for victim in plan:
                if self._store.evict(victim.digest, victim.why):
                    gone.append(victim)
                else:
                    refused.add(victim.digest)  # Leased or pinned since we looked.
        freed = before - self._taken()
        if gone:
            log.info("evict.done", extra={"snapshots": len(gone), "freed": freed, "wished": need})
        return Freed(tuple(gone), freed, max(0, need - freed))

    def _taken(self) -> int:
        return self._store.index.committed()

    def _candidates(self, refused: set[Digest]) -> list[Candidate]:
        now = time.time()
        blobs: dict[str, set[str]] = {}
        for row in self._store.index.query("SELECT snapshot, blob FROM snapshot_blob"):
            blobs.setdefault(row["snapshot"], set()).add(row["blob"])
        pinned = {
            row["snapshot"]
            for row in self._store.index.query("SELECT snapshot FROM pin WHERE until IS NULL OR until > ?", (now,))
        }
        rows = self._store.index.query("SELECT digest, source, used_at FROM snapshot WHERE state <> 'evicting'")
        found = []
        for row in rows:
            digest = Digest(row["digest"])
            kept = digest.hex in pinned or digest in refused or held(self._store.snapshots.lock(digest))
            members = frozenset(blobs.get(digest.hex, ()))
            found.append(Candidate(digest, row["source"], row["used_at"], members, kept))
        return found

    def _sizes(self) -> dict[str, int]:
        return {row["digest"]: row["size"] for row in self._store.index.query("SELECT digest, size FROM blob")}

    def _held_blobs(self) -> frozenset[str]:
        return frozenset(row["blob"] for row in self._store.index.query("SELECT DISTINCT blob FROM hold"))
