"""The callback that Ray Serve LLM runs in a replica before it downloads anything."""

from __future__ import annotations

from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.common.utils.download_utils import NodeModelDownloadable

from cached import CachedError, DaemonUnavailable
from serve_integration.holding import Held, hold, log, make_torch_kernels
from serve_integration.loading import reading
from serve_integration.lora_ray import serve_adapters_from_cache
from serve_integration.reference import Reference, ray_form, reference
from serve_integration.settings import Settings


class CachedModelCallback(CallbackBase):  # type: ignore[misc]  # Ray ships no types.
    """Acquires the model from the node's cache and makes the engine load it from there.

    Use it as `callback_config.callback_class`; `callback_kwargs` are the fields of Settings. The lease belongs to the
    process, so it lasts as long as the replica does.
    """

    def __init__(
        self,
        llm_config: Any,
        raise_error_on_callback: bool = True,
        ctx_kwargs: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(llm_config, raise_error_on_callback, ctx_kwargs, **settings)
        self.settings = Settings.of(settings)
        self._held: Held | None = None

    async def on_before_node_init(self) -> None:
        """Point the engine at the cache. A CachedError's sentence fails the replica and shows in Serve's status."""
        if self.llm_config.lora_config is not None:
            self._take_adapters()
        wanted = self._reference()
        if wanted is None:
            log.info("cached: %s is left to the engine: not a whole repository or bucket.", self.llm_config.model_id)
            return
        try:
            settings = reading(self.llm_config.engine_kwargs, self.settings)
            self._held = await hold(wanted, settings, self._other_nodes(), self.ctx.runtime_env)
        except DaemonUnavailable as error:
            if self.settings.fallback == "error":
                raise DaemonUnavailable(_sentence(wanted, error) + " Or allow fallback='remote'.") from error
            log.warning("%s Ray loads it from the source instead.", _sentence(wanted, error))
            self._use_source(wanted)
        except CachedError as error:
            raise type(error)(_sentence(wanted, error)) from error
        else:
            self._use(self._held)
            log.info("%s", _line(wanted, self._held))

    async def on_after_node_init(self) -> None:
        """After extra files have come: with a mirror still named, Ray could prefer it to the local path."""
        if self._held is not None:
            engine = self.llm_config.get_engine_config()
            engine.hf_model_id, engine.mirror_config = self._held.path, None

    def _take_adapters(self) -> None:
        """Adapters from the cache. On a Ray that loads them otherwise they stay with Ray, unless nothing may."""
        try:
            serve_adapters_from_cache(_settings_of)
        except CachedError as error:
            if self.settings.fallback == "error":
                raise
            log.warning("%s Ray loads them from the source instead.", error.message)

    def _reference(self) -> Reference | None:
        loading = self.llm_config.model_loading_config
        revision = self.llm_config.engine_kwargs.get("revision")
        return reference(loading.model_id, loading.model_source, revision)

    def _other_nodes(self) -> list[str]:
        """Ray's ids of the nodes, beside this one, where parts of the engine will read the model."""
        if self.ctx.placement_group is None:
            return []
        table = ray.util.placement_group_table(self.ctx.placement_group)
        here = ray.get_runtime_context().get_node_id()
        return sorted(set(table["bundles_to_node_id"].values()) - {here})

    def _use(self, held: Held) -> None:
        engine = self.llm_config.get_engine_config()
        engine.hf_model_id = held.path
        if engine.mirror_config is not None and engine.mirror_config.extra_files:
            self.ctx.worker_node_download_model = NodeModelDownloadable.NONE  # Ray still fetches the extra files.
        else:
            engine.mirror_config = None
            self.ctx.run_init_node = False
            make_torch_kernels()

    def _use_source(self, wanted: Reference) -> None:
        """Put URIs that only the cache understands into Ray's words."""
        form = ray_form(wanted)
        if form is not None:
            engine = self.llm_config.get_engine_config()
            engine.hf_model_id, revision = form
            if revision is not None:
                engine.engine_kwargs["revision"] = revision


def _settings_of(llm_config: Any) -> Settings | None:
    callback = llm_config.get_or_create_callback()
    return callback.settings if isinstance(callback, CachedModelCallback) else None


def _sentence(wanted: Reference, error: CachedError) -> str:
    return f"Cannot load {wanted} through the model cache: {error.message}"


def _line(wanted: Reference, held: Held) -> str:
    """The one line of a loaded model, as `name=value` pairs."""
    return (
        f"cached: model={wanted} path={held.path} digest={held.digest} revision={held.revision} "
        f"{'hit' if held.hit else 'miss'} seconds={held.seconds:g} bytes={held.size}"
        f"{' stale' if held.stale else ''}"
    )
