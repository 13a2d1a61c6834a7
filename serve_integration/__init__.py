"""Ray Serve LLM through the node's model cache. Ray is imported when one of these names is first used, not before.

    app.py config.py     the builder that `serve deploy` calls; an LLMConfig whose replicas load through the cache
    callback.py          the callback that Ray Serve LLM runs in a replica before it downloads anything
    deployment.py        a model for the life of a replica that is no LLMConfig
    multiplexed.py       a model for `@serve.multiplexed`
    settings.py          the user's settings for all of them
    models/ replica/ lora/   the names of models; the models that a replica holds; adapters

Of `cached` it imports the client and the nouns, nothing of the daemon: import-linter checks it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_integration.app import build_openai_app
    from serve_integration.callback import CachedModelCallback
    from serve_integration.config import cached_llm_config
    from serve_integration.deployment import hold_for_replica
    from serve_integration.multiplexed import HeldModel, held_model

__all__ = [
    "CachedModelCallback",
    "HeldModel",
    "build_openai_app",
    "cached_llm_config",
    "held_model",
    "hold_for_replica",
]

_HOMES = {
    "CachedModelCallback": "callback",
    "HeldModel": "multiplexed",
    "build_openai_app": "app",
    "cached_llm_config": "config",
    "held_model": "multiplexed",
    "hold_for_replica": "deployment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
