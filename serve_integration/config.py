"""An LLMConfig whose replicas load through the cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.common.utils.import_utils import load_class
from ray.serve.llm import LLMConfig

from serve_integration.settings import Settings

# By name, so that neither the driver nor Serve's controller imports it.
CALLBACK = "serve_integration.CachedModelCallback"
_SPELLINGS = (CALLBACK, "serve_integration:CachedModelCallback", "serve_integration.callback.CachedModelCallback")


def cached_llm_config(
    llm_config: LLMConfig,
    *,
    fallback: str | None = None,
    socket: str | Path | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    max_age: float | None = None,
    timeout: float | None = None,
    prefetch: bool | float | None = None,
    lora_path: str | None = None,
) -> LLMConfig:
    """Return a copy of the config whose replicas acquire the model from the daemon on their node; the original is not
    changed.

    `fallback="remote"` (the default) lets Ray load from the source when there is no daemon, `"error"` fails the
    replica. `max_age` and `timeout` are in seconds; `prefetch` is a share of the available memory. Settings that the
    config already holds stay unless they are given here.

    Raises ValueError when the config has a callback of its own that is not derived from ours, because Ray runs only
    one.
    """
    current = llm_config.callback_config
    if not _ours(current.callback_class, llm_config.model_id) and not _unset(current.callback_class):
        raise ValueError(
            f"The LLMConfig of {llm_config.model_id!r} already has the callback {_name(current.callback_class)}, and "
            f"Ray runs only one: derive it from {CALLBACK}, or leave it out."
        )
    given = {
        "fallback": fallback,
        "socket": socket,
        "include": include,
        "exclude": exclude,
        "max_age": max_age,
        "timeout": timeout,
        "prefetch": prefetch,
        "lora_path": lora_path,
    }
    known = {} if _unset(current.callback_class) else dict(current.callback_kwargs)
    settings = Settings.of({**known, **{name: value for name, value in given.items() if value not in (None, ())}})
    chosen = CALLBACK if _unset(current.callback_class) else current.callback_class
    callback = CallbackConfig(chosen, settings.plain(), current.raise_error_on_callback)
    return _copy(llm_config, callback)


def _copy(llm_config: LLMConfig, callback: CallbackConfig) -> LLMConfig:
    """Return a deep copy, because Ray writes into the dictionaries of a config, without the values that the original
    has already derived."""
    copy = llm_config.model_copy(update={"callback_config": callback}, deep=True)
    copy._engine_config = None
    copy._callback_instance = None
    return copy


def _unset(callback_class: Any) -> bool:
    return callback_class is CallbackBase


def _ours(callback_class: Any, model_id: str) -> bool:
    if callback_class in _SPELLINGS:
        return True
    kind = _load(callback_class, model_id) if isinstance(callback_class, str) else callback_class
    return any(f"{base.__module__}.{base.__qualname__}" in _SPELLINGS for base in getattr(kind, "__mro__", ()))


def _load(name: str, model_id: str) -> Any:
    """Load the class as Ray does in the replica. Raises ValueError when it cannot be loaded here."""
    try:
        return load_class(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The LLMConfig of {model_id!r} has the callback {name}, which cannot be loaded here: {error}; make it "
            "importable where the config is made, or leave it out."
        ) from error


def _name(callback_class: Any) -> str:
    return callback_class if isinstance(callback_class, str) else str(callback_class.__qualname__)
