"""The files of one listing that a caller's credentials were seen to read.

A listing names files. It does not prove that the caller may read them, or that its publisher has the bytes that it
names. So before a caller receives a file that this node fetched for another caller, its own credentials are shown to
the source:

* Where one file opens the whole place (the Hub: rights are per repository) the worker proved that by resolving it.
* Elsewhere each file is proved by itself, once for each set of credentials and each version. The proofs are remembered,
  and when the proof of the whole listing is old, an unpredictable file is proved again.
* A digest is a claim until this place was seen to have the bytes: ranges are read there and compared with ours.
  Otherwise a listing of mine could name your weights. An attacker that has some of the bytes could try until only those
  are compared, so once a digest was claimed wrongly, the next claim of it is compared in every byte.

All that is not known to have been read with these credentials counts as unproved: a new way to receive a blob opens
nothing if it is forgotten here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cached.access import probe_of
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.whose import Whose
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.transfer.scheduler import pause_after
from cached.daemon.transfer.workers import Workers
from cached.errors import CachedError, NotFound, SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Digest, Entry, Listing
from cached.worker.messages import Check

DOUBTED = 4096  # Digests that are remembered as claimed wrongly.
NEW_KEYS = 4  # Files that new keys of a known principal prove: its sessions may be narrower than its role.


@dataclass(frozen=True, slots=True)
class Copy:
    """A file of the listing that this node has, provided that the listing is to be believed."""

    entry: Entry
    digest: Digest
    disk: Disk

    @property
    def path(self) -> Path:
        return self.disk.store.blobs.path(self.digest)


class Registrar:
    """The state that all Rights share."""

    def __init__(self, config: Config, disks: Disks, workers: Workers, whose: Whose) -> None:
        self.disks, self.workers, self.whose = disks, workers, whose
        self.ttl, self.timeout, self.retries = float(config.proof_ttl), float(config.resolve_timeout), config.retries
        self._doubted: OrderedDict[Digest, None] = OrderedDict()  # Digests claimed wrongly, since the start.

    async def principal(self, listing: Listing, caller: Caller) -> str | None:
        """Return the owner that the source names for these keys, if they are those of a session; else None. The worker
        remembers the answer, and for some time also that there was none."""
        if not (caller.used(listing.ref) and caller.credentials.temporary):
            return None
        return await self.workers.principal(listing.ref, caller, self.timeout)

    def doubt(self, copy: Copy) -> None:
        """Remember that a caller's listing has claimed this digest wrongly."""
        self._doubted[copy.digest] = None
        self._doubted.move_to_end(copy.digest)
        while len(self._doubted) > DOUBTED:
            self._doubted.popitem(last=False)

    def doubts(self, copy: Copy) -> bool:
        return copy.digest in self._doubted


class Rights:
    """Prove a caller's rights to a listing, in one request. Use from the event loop only, except `record`."""

    def __init__(self, registrar: Registrar, listing: Listing, caller: Caller) -> None:
        self.listing, self.caller = listing, caller
        self._registrar, self._timeout = registrar, registrar.timeout
        self._disks, self._workers = registrar.disks, registrar.workers
        self._probe = probe_of(listing)
        self._principal: str | None = None
        self._known: frozenset[str] = frozenset()  # Identities that were proved before.
        self._spots = 0  # The number of those to prove again.
        self._sure: set[str] = set()  # Paths with nothing left to prove.
        self._proven: set[str] = set()  # Identities that were proved now …
        self._identified: dict[str, Digest] = {}  # … and the digests that the source was seen to have.
        self._asked = not listing.open and listing.probe is not None  # By the worker that resolved it.
        # Called with True before a pause between tries and False after it; None where a cached snapshot may be served
        # if the source does not answer: then there is no second try.
        self.pausing: Callable[[bool], None] | None = None

    # Proofs.

    async def begin(self) -> None:
        """Load the earlier proofs. Credentials with no proof here first prove a random file, cached or not, so that a
        refusal does not depend on what this node has."""
        if not self.listing.rights_per_file:
            return
        self._principal = await self._registrar.principal(self.listing, self.caller)
        ages = [age for disk in self._disks if (age := await self._look(disk)) is not None]
        if not self._known and not self.listing.open:
            await self._prove([secrets.choice(self.listing.entries)])
        if any(0 <= age <= self._registrar.ttl for age in ages):
            self._spots = 0
        else:
            self._spots = NEW_KEYS if self._principal and not ages else 1

    async def _look(self, disk: Disk) -> float | None:
        """Load the earlier proofs from this disk. Return the age of the proof of this very listing in seconds; None if
        there is none."""

        def look() -> tuple[set[str], float | None]:
            identities = map(self.listing.identity, self.listing.entries)
            at = disk.store.proofs.at(self._probe, self._who(disk))
            return disk.store.proofs.proven(self._who_files(disk), self.listing.place, identities), at

        try:
            known, at = await disk.do(look)
        except CachedError:  # Its earlier proofs have to be made again.
            return None
        self._known |= known
        return None if at is None else time.time() - at

    async def cover(self, copies: Sequence[Copy]) -> None:
        """Prove what is still unproved of these files. Raises SourceDenied, NotFound or SourceChanged; a refusal drops
        all earlier proofs there."""
        left = [copy for copy in copies if copy.entry.path not in self._sure]
        claims = await self._claims(left)
        claimed = {copy.entry.path for copy in claims}
        if self.listing.rights_per_file:
            await self.prove([copy.entry for copy in left if copy.entry.path not in claimed])
        await self._compare(claims)
        self._sure |= {copy.entry.path for copy in left}

    def read(self, entries: Iterable[Entry]) -> None:
        """Record that every byte of these entries was just read from the source with these credentials."""
        for entry in entries:
            self._sure.add(entry.path)
            self._proven.add(self.listing.identity(entry))
            self._asked = True

    async def prove(self, entries: Sequence[Entry]) -> None:
        """Prove that the caller may read each of these; some of those proved before are proved again."""
        identity = self.listing.identity
        shown = self._known | self._proven
        new = [entry for entry in entries if identity(entry) not in shown]
        old = [entry for entry in entries if identity(entry) in self._known]
        drawn = secrets.SystemRandom().sample(old, min(self._spots, len(old)))
        self._spots -= len(drawn)
        await self._prove([*new, *drawn])

    async def _prove(self, entries: Sequence[Entry]) -> None:
        if entries:
            try:
                await self._persist(
                    lambda: self._workers.prove(self.listing, entries, self.caller, self._timeout), lambda: True
                )
            except (SourceDenied, NotFound):
                await self.drop()
                raise
            self._asked = True
            self._proven.update(map(self.listing.identity, entries))

    async def _persist(self, ask: Callable[[], Awaitable[None]], worth: Callable[[], bool]) -> None:
        """Try as often as a read is tried, with the same pauses: a proof is a read, and sources fail now and then."""
        for tries in range(1, self._registrar.retries + 1):
            try:
                await ask()
                return
            except SourceUnavailable as error:
                if self.pausing is None or tries == self._registrar.retries or not worth():
                    raise
                pause = pause_after(tries, error)
            self.pausing(True)
            try:
                await asyncio.sleep(pause)
            finally:
                self.pausing(False)

    async def _claims(self, copies: Sequence[Copy]) -> list[Copy]:
        """Return the copies whose digest only the listing claims: this place was never seen to have such bytes."""
        named = [copy for copy in copies if copy.entry.digest is not None]
        seen: set[Digest] = set()
        for disk in self._disks if named else ():
            try:
                digests = {copy.digest for copy in named}
                seen |= await disk.do(disk.store.index.seen_at, self.listing.place, digests)
            except CachedError:
                continue
        return [copy for copy in named if copy.digest not in seen]

    async def _compare(self, claims: Sequence[Copy]) -> None:
        """Compare each file with the source's; several names of one file are compared one after the other."""
        left = list(claims)
        while left:
            now = {copy.path: copy for copy in reversed(left)}
            await self._compare_once({path: copy for path, copy in now.items() if not self._registrar.doubts(copy)})
            await self._compare_once({path: copy for path, copy in now.items() if self._registrar.doubts(copy)}, True)
            compared = {copy.entry.path for copy in now.values()}
            identities = {self.listing.identity(copy.entry): copy.digest for copy in now.values()}
            self._identified.update(identities)
            self._proven.update(identities)
            left = [copy for copy in left if copy.entry.path not in compared and self.listing.rights_per_file]

    async def _compare_once(self, copies: Mapping[Path, Copy], whole: bool = False) -> None:
        if not copies:
            return
        entries = {path: copy.entry for path, copy in copies.items()}
        try:
            await self._persist(
                lambda: self._workers.compare(self.listing, entries, self.caller, self._timeout, whole),
                lambda: all(map(os.path.exists, copies)),
            )
        except SourceUnavailable as error:
            if all(map(os.path.exists, copies)):
                raise
            raise SourceChanged(f"Files of {self.listing.ref} were removed here meanwhile; ask again.") from error
        except SourceDenied as error:
            if len(copies) > 1:  # The error does not name the file.
                for path, copy in copies.items():
                    await self._compare_once({path: copy}, whole)
                return
            if await self._damaged(*copies.values()):
                raise SourceChanged(f"A file of {self.listing.ref} was damaged here; ask again.") from error
            self._registrar.doubt(*copies.values())
            await self.drop()
            raise
        except NotFound:
            await self.drop()
            raise
        self._asked = True

    async def _damaged(self, copy: Copy) -> bool:
        """Return True if our own copy is damaged or gone: then a difference does not count against the listing."""
        row = await copy.disk.do(copy.disk.store.blob, copy.digest)
        if row is None:
            return True
        found = await self._workers.check(Check(copy.path, copy.digest, row.size, row.pieces, deep=False))
        if found.problem is not None:
            self._disks.doubt(copy.path)
        return found.problem is not None

    # Records.

    def record(self, disk: Disk) -> None:
        """Write down the proofs of this request. Call it in the disk's thread."""
        proofs, place = disk.store.proofs, self.listing.place
        if self._identified:
            disk.store.index.identified(self._identified)
        if self._proven and self.listing.rights_per_file:
            proofs.add_proven(self._who_files(disk), place, self._proven)
        if self._asked and not self.listing.open:
            proofs.record(self._probe, self._who(disk), place)

    async def drop(self) -> None:
        """Forget all proofs of these credentials at this place, because the source has refused them something there."""
        for disk in self._disks.writable:
            try:
                await disk.do(self._drop, disk)
            except CachedError:  # Old proofs on a disk that cannot be written to expire by themselves.
                continue

    def _drop(self, disk: Disk) -> None:
        for who in {self._who(disk), self._who_files(disk)}:
            disk.store.proofs.forget_place(who, self.listing.place)

    def _who(self, disk: Disk) -> str:
        return self._registrar.whose.credentials(disk.store.proofs, self.listing.ref, self.caller)

    def _who_files(self, disk: Disk) -> str:
        """Return the identity for proofs of single files: everybody's where no credentials were needed."""
        whose, proofs = self._registrar.whose, disk.store.proofs
        if self.listing.open:
            return whose.open(proofs, self.listing.ref, self.caller)
        return proofs.principal(self._principal) if self._principal else self._who(disk)
