"""Record which snapshots an LLM engine could load. Each is inspected once, by a worker, and not at every hit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from cached.daemon.runtime.endings import seen
from cached.model import Digest
from cached.model_ref import ModelRef

REMEMBERED = 10_000  # Pairs of snapshot and ref; the most recently requested are kept.

_Key = tuple[Digest, str]


class Inspector(Protocol):
    def inspect(self, ref: ModelRef, folder: Path) -> Awaitable[None]: ...


class Loadable:
    def __init__(self, workers: Inspector) -> None:
        self._workers = workers
        self._known: OrderedDict[_Key, None] = OrderedDict()
        self._looking: dict[_Key, asyncio.Task[None]] = {}

    def add(self, ref: ModelRef, digest: Digest) -> None:
        self._known[digest, ref.key] = None
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def check(self, ref: ModelRef, digest: Digest, folder: Path) -> None:
        """Raise ModelIncomplete when a file is missing that the engine, or the model's own index, needs."""
        key = digest, ref.key
        if key in self._known:
            self._known.move_to_end(key)
            return
        if key not in self._looking:
            looking = self._looking[key] = asyncio.create_task(self._look(ref, digest, folder))
            looking.add_done_callback(lambda task: self._looked(key, task))
        await asyncio.shield(self._looking[key])

    async def _look(self, ref: ModelRef, digest: Digest, folder: Path) -> None:
        await self._workers.inspect(ref, folder)
        self.add(ref, digest)

    def _looked(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._looking[key]
        seen(task)
