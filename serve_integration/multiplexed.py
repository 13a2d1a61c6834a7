"""A model for `@serve.multiplexed`: its directory, held until Serve has evicted it and no reader uses it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol, Self

from cached import Client


class Held(Protocol):
    """A lease, or the leases of several nodes."""

    path: str
    digest: str
    revision: str
    size: int
    hit: bool

    def release(self) -> None: ...


class HeldModel:
    """The model that a `@serve.multiplexed` function returns. `model` is for the object that the caller loads from
    `path`.

    Serve evicts a model by calling its `__del__`; the lease ends then, or with the last `with` block that uses it.
    `size` is in bytes; `hit` means that no byte was fetched. It may be shared by threads.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self._lock = threading.Lock()
        self._users = 0
        self._wanted = True
        self.path, self.digest, self.revision = held.path, held.digest, held.revision
        self.size, self.hit = held.size, held.hit
        self.model: Any = None

    def __repr__(self) -> str:
        state = "held" if self._wanted else "evicted, in use" if self._users else "released"
        return f"<{type(self).__name__} {state} {self.path}>"

    @property
    def in_use(self) -> bool:
        return self._users > 0

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            idle = not self._wanted and self._users == 0
        if idle:
            self._end()

    def release(self) -> None:
        """Evict the model, as Serve does: the lease ends as soon as no block uses it. Calling it again does nothing."""
        with self._lock:
            wanted, self._wanted = self._wanted, False
            idle = wanted and self._users == 0
        if idle:
            self._end()

    def __del__(self) -> None:
        if hasattr(self, "_wanted"):  # Python calls this also for an object whose constructor failed.
            self.release()

    def _end(self) -> None:
        self._held.release()


async def held_model(uri: str, *, socket: str | Path | None = None, **options: Any) -> HeldModel:
    """Acquire the model on this node; the options are those of `Client.acquire`. Raises the errors of `cached`."""
    with Client(socket) as client:
        return HeldModel(await client.acquire_async(uri, **options))
