"""A clock around what Ray does before it starts the engine: where it downloads a model from a bucket."""

from __future__ import annotations

import time

from ray.llm._internal.common.callbacks.base import CallbackBase

from tests.bench.waits import note


class NodeClock(CallbackBase):  # type: ignore[misc]  # Ray ships no types.
    """The `callback_class` of an LLMConfig; it changes nothing."""

    async def on_before_node_init(self) -> None:
        self._asked = time.time()

    async def on_after_node_init(self) -> None:
        note(self._asked)
