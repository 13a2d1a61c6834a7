"""Small files of one model, fetched one after the other on one connection and published together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from cached.daemon.download import Download, Remote
from cached.model import Digest, Entry
from cached.sources.base import Reader
from cached.store.ingest import Ingest, Piece
from cached.store.store import Arrival, Store

Read = Callable[[Reader, Ingest, Piece, Download], None]


class Bundle:
    """`run` is one try, in one thread; what it got before it failed is published, and is not fetched again."""

    def __init__(self, store: Store, read: Read, remote: Remote, download: Download) -> None:
        self._store, self._read, self._remote, self._download = store, read, remote, download
        self.digests: dict[str, Digest] = {}

    def run(self) -> None:
        landed: list[tuple[str, Ingest]] = []
        with contextlib.ExitStack() as stack:
            try:
                for key, entry in self._download.wants.items():
                    if key not in self.digests:
                        ingest = stack.enter_context(contextlib.closing(self._store.blobs.ingest(key, entry)))
                        self._land(ingest, entry)
                        landed.append((key, ingest))
            finally:
                self._publish(landed)

    def _land(self, ingest: Ingest, entry: Entry) -> None:
        """A file of one piece has nothing to resume: what broke off is removed."""
        try:
            reader = self._remote.source.open(self._remote.listing, entry, self._remote.credentials)
            try:
                for piece in ingest.missing():
                    self._read(reader, ingest, piece, self._download)
                reader.recheck()
            finally:
                reader.close()
        except BaseException:
            ingest.discard()
            raise

    def _publish(self, landed: list[tuple[str, Ingest]]) -> None:
        """Synced only now, one after the other: the first sync takes most of the others' way along."""
        arrivals = []
        try:
            for key, ingest in landed:
                arrivals.append(Arrival(ingest, ingest.verify(), self._remote.listing.identity(ingest.entry), key))
        finally:
            if arrivals:
                self._store.publish(arrivals)
                self.digests.update({arrival.key: arrival.verified.digest for arrival in arrivals})
