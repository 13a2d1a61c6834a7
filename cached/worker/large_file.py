"""One large file while it is fetched: an ingest that is filled piece by piece from a reader of one source."""

from __future__ import annotations

import functools

from cached.errors import SourceChanged
from cached.sources.source import FastReader, Reader, Source, WholeFileReader
from cached.store.blobs.blobs import Blobs
from cached.store.blobs.ingest import Piece, Verified
from cached.worker.ahead import Ahead, Ask
from cached.worker.blob_reader import BlobReader
from cached.worker.byte_counts import Bandwidth, Count
from cached.worker.messages import Open, Opened


class LargeFile:
    """A large file while it is fetched. Several threads may call `read`; one at a time the rest, when no read runs."""

    def __init__(self, source: Source, blobs: Blobs, bandwidth: Bandwidth, asked: Open, ask: Ask) -> None:
        """Open the ingest and the reader. `ask` is called for room before bytes are written."""
        self._bandwidth = bandwidth
        self._ingest = blobs.ingest(asked.into.key, asked.entry, asked.into.expected)
        self._ahead = Ahead(ask, asked.into.key, self._ingest)
        try:
            self._reader = _reader(source, asked)
        except BaseException:
            self._ingest.close()
            raise
        self._resumed = self._ingest.landed_bytes > 0
        self._fast = self._reader if isinstance(self._reader, FastReader) else None
        self._copied = asked.into.copy is not None

    @property
    def opened(self) -> Opened:
        missing = self._ingest.missing()
        landed = self._ingest.landed_bytes
        whole = not landed and isinstance(self._reader, WholeFileReader) and self._reader.whole
        return Opened(landed, tuple(missing), whole)

    def read(self, piece: Piece, count: Count) -> None:
        """Fetch one piece, through the reader's fast path where it has one and the answer is plain."""
        bandwidth, begun = self._bandwidth, self._ingest.begun(piece)
        try:
            with self._ingest.landing(piece, functools.partial(self._ahead.of, piece)) as landing:

                def sink(data: memoryview) -> None:
                    landing.write(data)
                    if self._copied:
                        count.done += len(data)  # Nothing was received from a remote.
                    else:
                        count.add(len(data))
                        bandwidth.take(len(data))

                offset, length = piece.offset + landing.done, piece.length - landing.done
                if not (self._fast and self._fast.stream(offset, length, sink)):
                    sink(memoryview(self._reader.read(offset, length)))
        except BaseException:
            count.kept = self._ingest.begun(piece) - begun
            raise

    def read_whole(self, count: Count) -> None:
        """Fetch the file with the reader's own engine, else piece by piece, through the same checks as every file."""
        assert isinstance(self._reader, WholeFileReader)  # `opened` said so.
        landed = self._ingest.landed_bytes
        try:
            self._ingest.allocate(self._ingest.entry.size)
            if not landed and self._reader.download(self._ingest.part, count.add):
                self._ingest.adopt()
            else:
                for piece in self._ingest.missing():
                    self.read(piece, count)
        except BaseException:
            count.kept = self._ingest.landed_bytes - landed
            raise

    def finish(self) -> Verified:
        """Check the file, make it durable and close it. After SourceChanged, DigestMismatch or a failed fsync nothing
        is left."""
        try:
            self._reader.recheck(self._resumed)
            return self._ingest.verify()
        except SourceChanged:
            self._ingest.discard()  # Bytes of a version that is gone are of no use.
            raise
        finally:
            self.close()

    def close(self, discard: bool = False) -> None:
        try:
            self._reader.close()
        finally:
            if discard:
                self._ingest.discard()
            else:
                self._ingest.close()


def _reader(source: Source, asked: Open) -> Reader:
    """Open the blob on another root if there is one, else the remote file."""
    if asked.into.copy is not None:
        return BlobReader(asked.into.copy)
    return source.open(asked.remote.listing, asked.entry, asked.remote.credentials)
