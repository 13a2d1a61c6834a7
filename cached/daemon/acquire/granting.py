"""Serve files that are here already, no matter which caller had them fetched, once the caller has proved that the
source would give them."""

from __future__ import annotations

import time

from cached.access import Access
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.whose import Whose
from cached.daemon.acquire.fill import manifest_of
from cached.daemon.acquire.placement import Place, Places
from cached.daemon.acquire.request import Held
from cached.daemon.acquire.rights import Copy, Registrar, Rights
from cached.daemon.space.disks import Disks
from cached.daemon.space.needs import Needs
from cached.daemon.transfer.workers import Workers
from cached.model import Listing
from cached.store.index.hits import Known


class Granting:
    def __init__(self, config: Config, disks: Disks, workers: Workers, places: Places, whose: Whose) -> None:
        self._disks, self._places = disks, places
        self._registrar = Registrar(config, disks, workers, whose)

    def rights(self, listing: Listing, caller: Caller) -> Rights:
        return Rights(self._registrar, listing, caller)

    async def renew(self, rights: Rights) -> None:
        """Prove again the caller's right to a listing whose meaning has not changed and which it was served before."""
        if rights.listing.rights_per_file and not rights.listing.open:
            await rights.begin()
            await rights.prove(rights.listing.entries)

    async def show(self, rights: Rights) -> list[tuple[Place, Needs]]:
        """Prove that the caller may have the files of the listing that are here, before anything is reserved or evicted
        for it. Return what each disk has and lacks of it."""
        here = await self._places.here(rights.listing)
        await rights.begin()
        copies: dict[str, Copy] = {}
        for place, needs in here:
            for entry in rights.listing.entries:
                if digest := needs.digests.get(entry.path):
                    copies.setdefault(entry.path, Copy(entry, digest, place.disk))
        await rights.cover(list(copies.values()))
        return here

    async def show_all(self, rights: Rights) -> list[tuple[Place, Needs]]:
        """Do as `show`, and also prove the files that are not here. A plan for a caller that may read only some of the
        files then does not reveal which of them others have fetched."""
        here = await self.show(rights)
        if rights.listing.rights_per_file:
            await rights.prove(rights.listing.entries)
        return here

    async def complete(self, rights: Rights, here: list[tuple[Place, Needs]]) -> Held | None:
        """Return a ready snapshot of exactly these files, on any disk; None if there is none."""
        listing = rights.listing
        access = Access.of(listing, rights.caller.with_own(listing.ref))
        for place, needs in here:
            if needs.wants:
                continue
            disk, manifest = place.disk, await place.disk.do(manifest_of, needs, {})
            if self._disks.servable(disk, manifest.digest) and disk.store.index.ready(manifest.digest):
                size, files, now = manifest.size, len(manifest.files), time.time()
                known = Known(manifest.digest, str(listing.ref), listing.revision, size, files, now, access)
                return Held(disk, known)
        return None
