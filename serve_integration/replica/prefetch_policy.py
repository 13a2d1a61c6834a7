"""Decide if reading a cached model's files ahead of the engine helps its loader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_integration.settings import Settings

# These read no weights, or read past the page cache.
_NOT_FROM_MEMORY = ("dummy", "instanttensor")


def reading(engine_kwargs: Mapping[str, Any], settings: Settings) -> Settings:
    """Return the user's settings, without reading ahead where the engine would not benefit.

    The engine's own load settings stay as they are: on local files that are read ahead none of vLLM's strategies beat
    its default (`make bench-loading`).
    """
    asked = (engine_kwargs.get("load_format"), engine_kwargs.get("safetensors_load_strategy"))
    if asked[0] in _NOT_FROM_MEMORY or asked[1] == "prefetch":  # The latter does the same, from the engine's process.
        return replace(settings, prefetch=0.0)
    return settings
