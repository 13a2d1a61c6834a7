"""The adapters that an engine knows, so that none is released to the cache while the engine may read its files.

vLLM reads an adapter's files when it is added, and again whenever a request needs one that its own, smaller cache has
dropped. So an adapter stays held until Serve has evicted it, no request uses it, and the engine has forgotten it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import HTTPException

from serve_integration.lora.adapter import Adapter
from serve_integration.replica.acquire import log

Load = Callable[[Any], Awaitable[Any]]


class EngineAdapters:
    """Track the adapters of one engine, in its event loop. `engine` is Ray's VLLMEngine, started."""

    def __init__(self, engine: Any) -> None:
        self._models = engine._oai_models  # vLLM's registry: `lora_requests` by name.
        self._client = engine._engine_client  # vLLM's engine: remove_lora, reset_prefix_cache.
        self._known: dict[str, set[Adapter]] = {}  # By name; all of one digest.
        self._digests: dict[str, str] = {}  # The digest of a name when it was last loaded.
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._leaving: set[asyncio.Task[None]] = set()

    async def resolve(self, adapter: Adapter, load: Load) -> None:
        """Add the adapter to the engine, for the request that this task serves. Raises HTTPException when the engine
        cannot load it."""
        task = asyncio.current_task()
        assert task is not None
        adapter.use_by(task)
        async with self._locks[adapter.model_id]:
            known = self._known.get(adapter.model_id, set())
            older = next((other for other in known if other.in_use and other.digest != adapter.digest), None)
            if older is not None:
                # Changed at its source while requests use the old content. vLLM tells adapters apart by name, so both
                # cannot run at once: the new one's turn comes when the old one is idle.
                older.use_by(task)
                return
            if all(other.digest != adapter.digest for other in known):
                await self._forget(adapter.model_id)
                if adapter.refused:
                    await adapter.renew()
                await self._add(adapter, load)
            self._known.setdefault(adapter.model_id, set()).add(adapter)
            adapter.leave = self._leave_soon

    async def resolve_foreign(self, disk_adapter: Any, load: Load) -> None:
        """Add an adapter that Ray has downloaded, for want of a daemon; while an adapter of ours with its name is
        known, that is used."""
        async with self._locks[disk_adapter.model_id]:
            task = asyncio.current_task()
            known = self._known.get(disk_adapter.model_id)
            if known and task is not None:
                next(iter(known)).use_by(task)
                return
            await load(disk_adapter)

    async def _add(self, adapter: Adapter, load: Load) -> None:
        name = adapter.model_id
        if self._digests.get(name, adapter.digest) != adapter.digest:
            # vLLM's prefix cache knows an adapter by its name alone, and would answer with results of the old one.
            await self._client.reset_prefix_cache(reset_running_requests=True)
        try:
            await load(adapter)
        except ValueError as error:
            adapter.refused = True
            raise HTTPException(
                400, f"The engine cannot load the adapter {name} from {adapter.uri}: {error}; mend it and ask again."
            ) from error
        self._digests[name] = adapter.digest

    def _leave_soon(self, adapter: Adapter) -> None:
        task = asyncio.ensure_future(self._leave(adapter))
        self._leaving.add(task)  # The loop itself keeps only weak references.
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, adapter: Adapter) -> None:
        async with self._locks[adapter.model_id]:
            if adapter.in_use:  # Used again, by a request that found it in time. `_leave` is called again after that.
                return
            known = self._known.get(adapter.model_id, set())
            known.discard(adapter)
            if not known:
                await self._forget(adapter.model_id)
            adapter.end()

    async def _forget(self, name: str) -> None:
        """Make the engine forget the adapter. Afterwards it never reads the adapter's files: earlier requests are done
        or dropped."""
        self._known.pop(name, None)
        request = self._models.lora_requests.pop(name, None)
        if request is not None:
            try:
                await self._client.remove_lora(request.lora_int_id)
            except Exception as error:  # A dead engine reads nothing.
                log.warning("cached: the engine did not forget the adapter %s: %s", name, error)
