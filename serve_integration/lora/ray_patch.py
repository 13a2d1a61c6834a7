"""Make Ray Serve LLM load adapters from the cache, in this process, for every LLMConfig whose callback is ours.

Ray has no hook for adapters, and its callback runs in the replica when the loader of adapters is already made. So two
methods are replaced here, and only while they have the signatures in the Ray that this was written for: the one that
fetches an adapter when a replica does not hold it, and the one that shows it to the engine at each request.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import ray
from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader

from cached import CachedError, DaemonUnavailable
from serve_integration.lora.adapter import Adapter, load_adapter, refusal
from serve_integration.lora.engine import EngineAdapters
from serve_integration.multiplexed import Held
from serve_integration.replica.acquire import log
from serve_integration.settings import Settings

Method = Callable[..., Awaitable[Any]]

_FETCH = ("load_model_from_config", ["self", "lora_model_id", "llm_config"])
_SHOW = ("resolve_lora", ["self", "disk_lora_model"])
_engines: WeakKeyDictionary[Any, EngineAdapters] = WeakKeyDictionary()


class Callback(Protocol):
    """The parts of our callback that an LLMConfig has."""

    settings: Settings

    async def hold_adapter(self, uri: str, settings: Settings) -> Held: ...


CallbackOf = Callable[[Any], Callback | None]


def serve_adapters_from_cache(callback_of: CallbackOf) -> None:
    """Replace both methods; called again, it does nothing. Raises CachedError when this Ray has other signatures.

    `callback_of` returns the callback of an LLMConfig that uses the cache, None for any other.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine  # Imports vLLM, for seconds.

    if hasattr(LoraModelLoader.load_model_from_config, "from_cache"):
        return
    fetch, show = _method(LoraModelLoader, *_FETCH), _method(VLLMEngine, *_SHOW)
    LoraModelLoader.load_model_from_config = _cached_first(fetch, callback_of)
    VLLMEngine.resolve_lora = _by_what_it_knows(show)


def _cached_first(fetch: Method, callback_of: CallbackOf) -> Method:
    """Wrap Ray's method that fetches an adapter, to load it from the cache where that is configured and available."""

    @functools.wraps(fetch)
    async def load_model_from_config(self: Any, lora_model_id: str, llm_config: Any) -> Any:
        callback = callback_of(llm_config)
        settings = Settings() if callback is None else callback.settings
        place = settings.lora_path or llm_config.lora_config.dynamic_lora_loading_path
        if callback is None or place is None:
            return await fetch(self, lora_model_id, llm_config)
        timeout = _timeout(settings, llm_config)
        try:
            return await load_adapter(lora_model_id, place, settings, timeout, callback.hold_adapter)
        except DaemonUnavailable as error:
            if settings.fallback == "error" or settings.lora_path:  # Ray cannot use that path.
                raise refusal(error) from error
            log.warning("%s Ray loads it from the source instead.", error.message)
        except CachedError as error:
            raise refusal(error) from error
        return await fetch(self, lora_model_id, llm_config)

    load_model_from_config.from_cache = True  # type: ignore[attr-defined]
    return load_model_from_config


def _by_what_it_knows(show: Method) -> Method:
    """Wrap Ray's method that shows an adapter to the engine, to resolve our adapters by those that the engine knows."""

    @functools.wraps(show)
    async def resolve_lora(self: Any, disk_lora_model: Any) -> None:
        load = functools.partial(show, self)
        known = _engines.get(self)
        if isinstance(disk_lora_model, Adapter):
            known = known or _engines.setdefault(self, EngineAdapters(self))
            try:
                await known.resolve(disk_lora_model, load)
            except CachedError as error:
                raise refusal(error) from error
        elif known is not None:
            await known.resolve_foreign(disk_lora_model, load)
        else:
            await load(disk_lora_model)

    return resolve_lora


def _method(kind: type, name: str, parameters: list[str]) -> Method:
    found: Method | None = getattr(kind, name, None)
    if not inspect.iscoroutinefunction(found) or list(inspect.signature(found).parameters) != parameters:
        raise CachedError(
            f"Ray {ray.__version__} loads LoRA adapters in a way that the model cache does not know ({kind.__name__}."
            f"{name}); leave lora_config out, or use the Ray that the cache names."
        )
    return found


def _timeout(settings: Settings, llm_config: Any) -> float | None:
    """Return our timeout in seconds, or else the one that Ray has for adapters."""
    seconds: float | None = llm_config.lora_config.download_timeout_s
    return seconds if settings.timeout is None else settings.timeout
