"""Decide which callers may have a cached snapshot: those that recently proved that the source would give it to them."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cached.access import Access
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.standing import Standing
from cached.daemon.access.whose import Whose
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.errors import CachedError, NoSpace, StoreDegraded
from cached.model import Digest
from cached.model_ref import ModelRef

log = logging.getLogger("cached.access")

SWEEP_SECONDS = 15.0
TIME_TO_LEASE = 60.0  # Seconds for which a caller that received a path can use it, even if its proof ends.


@dataclass(frozen=True, slots=True)
class Claim:
    """A caller's claim to the snapshot that a ref means."""

    ref: ModelRef
    snapshot: Digest
    access: Access
    caller: Caller


class Gate:
    def __init__(self, config: Config, disks: Disks) -> None:
        self._config, self._disks = config, disks
        self.whose = Whose(config)
        # By snapshot and uid: the proofs (probe, who) that let the user in, and the time until which each is good. A
        # restart forgets them.
        self._grounds: dict[tuple[Digest, int], dict[tuple[str, str], float]] = {}

    def standing(self, disk: Disk, ref: ModelRef, access: Access, caller: Caller) -> Standing:
        """Return the caller's known right to a snapshot with this access. Synchronous, and quick."""
        ttl, grace = float(self._config.proof_ttl), float(self._config.proof_grace)
        if self._config.access == "node" or access.open or caller.daemon:
            return Standing(True, None, ttl, grace)
        at = None
        if access.probe:
            at = disk.store.proofs.at(access.probe, self._who(disk, ref, caller))
        return Standing(False, None if at is None else time.time() - at, ttl, grace)

    def _who(self, disk: Disk, ref: ModelRef, caller: Caller) -> str:
        return self.whose.credentials(disk.store.proofs, ref, caller)

    def whos(self, disk: Disk, ref: ModelRef, caller: Caller) -> tuple[str, ...] | None:
        """Return the identities whose recorded meanings on this disk the caller may use; None means all."""
        return self.whose.rows(disk.store.proofs, ref, caller)

    async def proved(
        self,
        disk: Disk,
        claim: Claim,
        names: Mapping[str, tuple[str, str]] | None = None,
        remember: Callable[[Disk], None] | None = None,
    ) -> None:
        """Record that the source has just let the caller read the snapshot, and that all these refs (key → source,
        revision) mean it.

        `remember` records what else was proved; None means that one file opened the place. A disk that cannot be
        written to forgets it.
        """
        await self._written(disk, claim.ref, lambda: self._proved(disk, claim, names, remember))

    def _proved(
        self,
        disk: Disk,
        claim: Claim,
        names: Mapping[str, tuple[str, str]] | None,
        remember: Callable[[Disk], None] | None,
    ) -> None:
        if names:
            who = self.whose.row(disk.store.proofs, claim.ref, claim.caller, claim.access.open)
            disk.store.resolved(names, claim.snapshot, claim.access, who)
        if remember is not None:
            remember(disk)
        elif not claim.access.open:
            who = self._who(disk, claim.ref, claim.caller)
            disk.store.proofs.record(claim.access.probe, who, claim.access.place)

    async def refused_at(self, ref: ModelRef, caller: Caller) -> None:
        """Forget all that the caller has proved at this place, under any name and revision: the source lets it read
        nothing there."""
        for disk in self._disks.writable:

            def forget(disk: Disk = disk) -> None:
                disk.store.proofs.forget_below(self._who(disk, ref, caller), f"/{ref.place.strip('/')}")

            await self._written(disk, ref, forget)

    async def refused(self, disk: Disk, claim: Claim) -> None:
        """Forget the caller's proof, and shut its uid out of the snapshot, because the source no longer lets it read
        it. The uid stays in while another proof of its own stands, until callers that received the path have had time
        to lease it, and while it holds a lease."""
        if claim.caller.uid is None:
            return
        grounds = dict(self._grounds.get((claim.snapshot, claim.caller.uid), {}))
        await self._written(disk, claim.ref, lambda: self._refused(disk, claim, grounds))

    def _refused(self, disk: Disk, claim: Claim, grounds: Mapping[tuple[str, str], float]) -> None:
        store, access, caller, ref = disk.store, claim.access, claim.caller, claim.ref
        if access.open:
            if not caller.used(ref):  # Otherwise these credentials may be bad, and the place still open.
                store.closed(ref.key, self.whose.open(store.proofs, ref, caller), claim.snapshot)
            return
        store.proofs.forget(access.probe, self._who(disk, ref, caller))
        if caller.uid is not None:
            # Replicas of one uid may use other credentials, and one may have its answer but not yet its lease.
            standing = [until for proof, until in grounds.items() if store.proofs.at(*proof) is not None]
            store.entrants.expire(claim.snapshot, caller.uid, max([time.time() + TIME_TO_LEASE, *standing]))
        if access.kind == "own" and caller.with_own(ref):
            store.refused(claim.snapshot, access)

    async def _written(self, disk: Disk, ref: ModelRef, write: Callable[[], None]) -> None:
        if disk.degraded is not None:
            return
        try:
            await disk.do(write)
        except (StoreDegraded, NoSpace) as error:
            log.warning("index.unwritten", extra={"ref": str(ref), "why": error.message})

    async def let_in(self, disk: Disk, ref: ModelRef, snapshot: Digest, caller: Caller) -> None:
        """Make sure that the caller's uid can enter the snapshot's directory, before the caller receives its path.

        Raises StoreDegraded when that cannot be written, on a root without ACLs or one that has become read-only.
        """
        store, uid = disk.store, caller.uid
        if uid is None or uid == os.geteuid():
            return
        now = time.time()
        until = now + TIME_TO_LEASE
        store.entrants.told(snapshot, uid, until)
        if store.entrants.everybody(store.index.access(snapshot)):
            if disk.degraded is None and not store.entrants.stands_open(snapshot):
                await disk.do(store.entrants.apply, snapshot)  # The index may be ahead of the disk.
            return
        whos = self.whos(disk, ref, caller)
        meanings = [known for key in ref.keys for known in store.index.meanings(key, whos)]
        known = next((each for each in meanings if each.snapshot == snapshot), None)
        if known is not None:
            standing = self.standing(disk, ref, known.access, caller)
            until = max(until, now + standing.ttl - (standing.age or 0.0))
            proof = known.access.probe, self._who(disk, ref, caller)
            self._grounds.setdefault((snapshot, uid), {})[proof] = until
        if store.entrants.until(snapshot, uid) < min(until, now + TIME_TO_LEASE / 2):
            if uid == 0 and disk.degraded is not None:  # The kernel mostly lets root in anyway.
                return
            disk.require_writable()
            await disk.do(store.entrants.enter, snapshot, uid, until)

    async def lock_file(self, disk: Disk, snapshot: Digest, caller: Caller) -> str:
        """Return the file that the caller must lock for as long as it uses the snapshot: the lock file of its uid.

        Where nothing can be written, nothing is removed either and no file is made: then any path will do that the
        caller can open.
        """
        uid = os.geteuid() if caller.uid is None else caller.uid
        file = disk.store.leases.file(snapshot, uid)
        if os.path.exists(file):
            return file
        try:
            disk.require_writable()
            return await disk.do(disk.store.leases.make, snapshot, uid)
        except StoreDegraded:
            if disk.degraded is None:
                raise
            return str(disk.store.snapshots.path(snapshot))

    def visible(self, disk: Disk, uid: int | None) -> frozenset[str] | None:
        """Return the snapshots (hex) that are visible to this user; None means all. Call it in the disk's thread."""
        if uid is None or self._config.access == "node":
            return None
        rows: list[sqlite3.Row] = disk.store.index.query(
            "SELECT digest, access, EXISTS (SELECT 1 FROM entrant WHERE snapshot = digest AND uid = ?) AS entered "
            "FROM snapshot",
            (uid,),
        )
        everybody = disk.store.entrants.everybody
        return frozenset(row["digest"] for row in rows if row["entered"] or everybody(Access.parse(row["access"])))

    async def begin(self) -> None:
        """Shut out users whose time is over, perhaps ended by an upgrade. Call it before the daemon answers."""
        await self._sweep()

    async def sweep(self) -> None:
        """Shut out users whose proof has expired and who hold no lease, and forget expired proofs, every SWEEP_SECONDS
        for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._forget_grounds(time.time())
            await self._sweep()

    async def _sweep(self) -> None:
        for disk in self._disks.writable:
            try:
                await disk.do(disk.store.entrants.sweep, time.time())
                await disk.do(disk.store.proofs.forget_older, time.time() - self._keep())
            except CachedError as error:
                log.warning("access.unswept", extra={"root": str(disk.root), "why": error.message})

    def _forget_grounds(self, now: float) -> None:
        for who, grounds in list(self._grounds.items()):
            self._grounds[who] = {proof: until for proof, until in grounds.items() if until >= now}
            if not self._grounds[who]:
                del self._grounds[who]

    def _keep(self) -> float:
        return max(float(self._config.proof_ttl), float(self._config.proof_grace))
