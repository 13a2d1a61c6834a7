"""Ranged reads of one blob at the ETag that was listed."""

from __future__ import annotations

from typing import Any

from azure.core import MatchConditions
from fsspec.asyn import sync

from cached.errors import SourceUnavailable
from cached.model import Entry
from cached.model_ref import ModelRef
from cached.sources.azure.errors import azure_errors
from cached.sources.transport.ranges import changed


class AzureReader:
    """A reader whose ranges carry `If-Match`; the ETag of each answer is compared as well."""

    def __init__(self, fs: Any, ref: ModelRef, container: str, key: str, entry: Entry, timeout: float) -> None:
        self._fs, self._ref, self._container, self._key = fs, ref, container, key
        self._entry, self._timeout = entry, timeout
        self._name = f"{ref.scheme}://{container}/{key}"

    def __repr__(self) -> str:
        return f"AzureReader({self._name}, etag={self._entry.version})"

    def read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        with azure_errors(self._ref, self._name):
            data: bytes = sync(self._fs.loop, self._get, offset, length, self._timeout, timeout=self._timeout)
        if len(data) != length:
            raise SourceUnavailable(f"The source sent {len(data)} of {length} bytes of {self._name}; try again.")
        return data

    def prove(self, timeout: float) -> None:
        """Return only if these credentials may read the blob, and it is still as it was listed. Raises the errors of
        adlfs.

        The proof is one byte of it: where directories are real, its properties are shown to callers that may not read
        it (https://learn.microsoft.com/azure/storage/blobs/data-lake-storage-access-control).
        """
        if self._entry.size:
            sync(self._fs.loop, self._get, 0, 1, timeout, timeout=timeout)
        else:
            self._judge(self._look(timeout))

    def recheck(self, resumed: bool = False) -> None:
        """Check the ETag if the file was resumed: reads are pinned, but those of an earlier reader are not known to be
        of the same version. Raise SourceChanged if it is another."""
        if resumed:
            with azure_errors(self._ref, self._name):
                found = self._look(self._timeout)
            self._judge(found)

    def close(self) -> None: ...

    def _look(self, timeout: float) -> str:
        """Return the blob's ETag now."""
        info = sync(self._fs.loop, self._fs.properties, self._container, self._key, timeout, timeout=timeout)
        return str(info["etag"])

    async def _get(self, offset: int, length: int, timeout: float) -> bytes:
        async with self._fs.service_client.get_blob_client(self._container, self._key) as client:
            answer = await client.download_blob(
                offset,
                length,
                etag=f'"{self._entry.version}"',
                match_condition=MatchConditions.IfNotModified,
                **patience(timeout),
            )
            self._judge(answer.properties.etag)
            data: bytes = await answer.readall()
            return data

    def _judge(self, etag: str | None) -> None:
        if (etag or "").strip('"') != self._entry.version:
            raise changed(self._name, "its ETag is another one")


def patience(timeout: float) -> dict[str, Any]:
    """Return the options of one request: silence of the remote ends it before the time for the call is over, which may
    be our own fault."""
    return {"read_timeout": 0.9 * timeout}
