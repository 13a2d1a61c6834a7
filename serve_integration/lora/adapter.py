"""LoRA adapters from the node's cache: the URI that a request's model id means, and an adapter that is held while it
serves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from cached import CachedError, InvalidRequest, ModelIncomplete, NotFound
from cached.uris import display_name
from serve_integration.models.model_source import Reference
from serve_integration.multiplexed import Held, HeldModel
from serve_integration.replica.acquire import log
from serve_integration.settings import Settings

Take = Callable[[str, Settings], Awaitable[Held]]

CONFIG = "adapter_config.json"
# The name comes from clients. Nothing in it may lead out of the folder of adapters, or mean more to a source than a
# name: no empty or dotted part, no escape, no query.
_NAME = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[^\s\\?#%*\[\]\x00-\x1f]+\Z")


def adapter_uri(model_id: str, place: str) -> str:
    """Return the URI of `chat:sql` when the adapters of `chat` are below `place`. Raises InvalidRequest for a name that
    leaves it."""
    name = model_id.partition(":")[2]
    if not _NAME.match(name):
        raise InvalidRequest(f"{name!r} cannot be the name of an adapter; ask for the name of a folder below {place}.")
    folder = place.removeprefix("pyarrow-")  # The prefix chooses a client in Ray; to the cache it is one place.
    return folder + name if folder.endswith("/") else f"{folder}/{name}"


def adapter_reference(uri: str) -> Reference:
    return Reference(uri, for_engine=False)  # An engine cannot load it alone.


class Adapter(HeldModel):
    """The object that Ray's multiplexing keeps for one adapter: the fields that its engine reads, and the hold on the
    files.

    It belongs to the event loop in which it was made. When Serve has evicted it and no request uses it, `leave` is
    called there, which ends the hold; without `leave` the hold ends at once.
    """

    def __init__(self, model_id: str, uri: str, held: Held, again: Callable[[], Awaitable[Held]]) -> None:
        super().__init__(held)
        self.model_id, self.uri = model_id, uri
        self.local_path = held.path
        self.max_total_tokens = _max_length(held.path)
        self.lora_assigned_int_id = 0  # Ray's engine numbers them itself.
        self.refused = False  # The engine could not load it.
        self.leave: Callable[[Adapter], Any] | None = None
        self._again = again
        self._loop = asyncio.get_running_loop()

    def use_by(self, task: asyncio.Task[Any]) -> None:
        """Keep it for as long as this task, which serves a request, runs."""
        self.__enter__()
        task.add_done_callback(self.__exit__)

    async def renew(self) -> None:
        """Acquire the source's current version, while no engine knows the adapter. Raises CachedError as the first
        acquire does."""
        held = await self._again()
        self._held.release()
        self._held, self.refused = held, False
        self.path = self.local_path = held.path
        self.digest, self.revision, self.size, self.hit = held.digest, held.revision, held.size, held.hit
        self.max_total_tokens = _max_length(held.path)

    def end(self) -> None:
        self._held.release()

    def _end(self) -> None:
        """End the hold, in any thread: Serve evicts in a thread of its own."""
        if self.leave is None:
            return self.end()
        try:
            self._loop.call_soon_threadsafe(self.leave, self)
        except RuntimeError:  # The loop has been closed.
            self.end()


async def load_adapter(model_id: str, place: str, settings: Settings, timeout: float | None, take: Take) -> Adapter:
    """Return the adapter, held by `take`, which fetches it first if need be. Raises CachedError with one sentence that
    names it.

    All its files are fetched, ignoring the patterns in the settings, which are for the model.
    """
    started = time.monotonic()
    uri = adapter_uri(model_id, place)
    chosen = replace(settings, include=(), exclude=(), timeout=timeout)

    async def now() -> Held:
        return await _take(model_id, uri, replace(chosen, max_age=0), take)

    adapter = Adapter(model_id, uri, await _take(model_id, uri, chosen, take), now)
    log.info("%s", _line(adapter, time.monotonic() - started))
    return adapter


async def _take(model_id: str, uri: str, settings: Settings, take: Take) -> Held:
    try:
        held = await take(uri, settings)
        if not Path(held.path, CONFIG).is_file():
            held.release()
            raise ModelIncomplete(f"there is no {CONFIG}.")
    except CachedError as error:
        sentence = (
            f"Cannot load the adapter {model_id} from {display_name(uri)} through the model cache: {error.message}"
        )
        if isinstance(error, NotFound):
            sentence = f"{sentence.rstrip('.')}; check the name, or upload the whole adapter."
        raise type(error)(sentence) from error
    return held


def _line(adapter: Adapter, seconds: float) -> str:
    """Return the log line of a loaded adapter, as `name=value` pairs."""
    return (
        f"cached: adapter={adapter.model_id} source={display_name(adapter.uri)} path={adapter.path} "
        f"digest={adapter.digest} revision={adapter.revision} {'hit' if adapter.hit else 'miss'} "
        f"seconds={seconds:.4f} bytes={adapter.size}"
    )


def refusal(error: CachedError) -> HTTPException:
    """Return the error as an HTTPException, for the client that sent the request."""
    return HTTPException(error.status, error.message)


def _max_length(path: str) -> int | None:
    """Return the longest sequence that the adapter was trained for, as Ray reads it; None if its configuration gives
    none."""
    try:
        found = json.loads(Path(path, CONFIG).read_bytes()).get("max_length")
    except (ValueError, AttributeError):
        return None  # The engine reports the error.
    return found if isinstance(found, int) else None
