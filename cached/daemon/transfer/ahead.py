"""Room for one large file, asked for a step ahead of its bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from cached.daemon.transfer.workers import Transfer
from cached.store.ingest import ALLOCATED, Piece

Secure = Callable[[Mapping[str, int]], Awaitable[None]]  # Room.secure


class Ahead:
    """A worker has the disk set aside ALLOCATED bytes at a time, from the beginning of the file; so is it asked for."""

    def __init__(self, secure: Secure, key: str, size: int) -> None:
        self._secure, self._key, self._size = secure, key, size
        self._secured = 0

    async def read(self, transfer: Transfer, piece: Piece) -> None:
        end = min(self._size, -(-(piece.offset + piece.length) // ALLOCATED) * ALLOCATED)
        # What landed beyond, in an earlier try, takes room as well.
        beyond = self._size - end - sum(each.length for each in transfer.missing if each.offset >= end)
        await self._upto(end + beyond)
        await transfer.read(piece)

    async def read_whole(self, transfer: Transfer) -> None:
        await self.all()
        await transfer.read_whole()

    async def all(self) -> None:
        await self._upto(self._size)

    async def _upto(self, count: int) -> None:
        if count > self._secured:
            await self._secure({self._key: count})
            self._secured = max(self._secured, count)
