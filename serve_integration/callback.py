"""The callback that Ray Serve LLM runs in a replica before it downloads anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.common.utils.download_utils import NodeModelDownloadable

from cached import CachedError, DaemonUnavailable
from serve_integration.lora.adapter import adapter_reference
from serve_integration.lora.ray_patch import serve_adapters_from_cache
from serve_integration.models.formats import may_be_lean, name_of
from serve_integration.models.model_source import NO_FALLBACK, Reference, ray_form, reference
from serve_integration.replica.acquire import Held, line, log, make_torch_kernels
from serve_integration.replica.auxiliary import companions, keep_kind
from serve_integration.replica.extra_files import extra_files, place_everywhere, without_extra_files
from serve_integration.replica.prefetch_policy import reading
from serve_integration.replica.remote_code import check_code, code_revision
from serve_integration.replica.replica_lease import Hold, keep, take
from serve_integration.replica.report import report
from serve_integration.settings import Settings


class CachedModelCallback(CallbackBase):  # type: ignore[misc]  # Ray ships no types.
    """Acquire the model from the node's cache and make the engine load it from there.

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
        self._name = ""  # The engine's name for the model that is held: its directory, or a file of it.

    async def on_before_node_init(self) -> None:
        """Point the engine at the cache. The sentence of a CachedError fails the replica and is shown in Serve's
        status."""
        if self.llm_config.lora_config is not None:
            self._take_adapters()
        wanted = self._reference()
        if wanted is None:
            log.info(
                "cached: %s is left to the engine: it names no place that the cache knows.", self.llm_config.model_id
            )
            await self._place_extra_files()
            await self._take_companions(None)
            return
        found = await self._hold(wanted, reading(self.llm_config.engine_kwargs, self.settings), self._name_in(wanted))
        if found is None:
            self._use_source(wanted)
        else:
            self._held, self._name = found
            await self._place_extra_files()
            self._use()
            report(wanted, self._held)
        await self._take_companions(wanted)

    async def on_after_node_init(self) -> None:
        """Set the local path again after Ray has fetched extra files: with a mirror still set, Ray could prefer it."""
        if self._held is not None:
            engine = self.llm_config.get_engine_config()
            engine.hf_model_id, engine.mirror_config = self._name, None

    async def _hold(
        self, wanted: Reference, settings: Settings, name_in: Callable[[Held], str], what: str = "", lost: bool = False
    ) -> tuple[Held, str] | None:
        """Hold the model on every node of the replica, and return this node's copy and its name for the engine. Return
        None, after a warning, when there is no daemon and the source may be used instead. `lost`: it may not, because
        the source's name alone means another model. Raises CachedError."""
        try:
            taken = await take(wanted, settings, self._other_nodes(), self.ctx.runtime_env)
            try:
                name = name_in(taken.here)
            except BaseException:
                taken.release()
                raise
            return keep(taken), name
        except DaemonUnavailable as error:
            sentence = _sentence(wanted, error, what)
            if settings.fallback == "error":
                raise DaemonUnavailable(f"{sentence} Or allow fallback='remote'.") from error
            if lost or wanted.is_ambiguous:
                raise DaemonUnavailable(f"{sentence} {NO_FALLBACK}") from error
            log.warning("%s Ray loads it from the source instead.", sentence)
            return None
        except CachedError as error:
            raise type(error)(_sentence(wanted, error, what)) from error

    def _name_in(self, wanted: Reference) -> Callable[[Held], str]:
        """Return a function that names a held model for the engine, and adapts its other settings. The function raises
        CachedError when the engine could not use the model."""
        engine = self.llm_config.get_engine_config().engine_kwargs

        def name_in(held: Held) -> str:
            check_code(wanted, held, code_revision(engine, engine))
            return name_of(wanted, held.path, engine)

        return name_in

    async def hold_adapter(self, uri: str, settings: Settings) -> Hold:
        """Hold the adapter on every node of the replica, until it is released."""
        return await take(adapter_reference(uri), settings, self._other_nodes(), self.ctx.runtime_env)

    def _take_adapters(self) -> None:
        """Load adapters from the cache. On a Ray that loads them in another way they stay with Ray; with
        fallback='error' raise CachedError instead."""
        try:
            serve_adapters_from_cache(_callback_of)
        except CachedError as error:
            if self.settings.fallback == "error":
                raise
            log.warning("%s Ray loads them from the source instead.", error.message)

    def _reference(self) -> Reference | None:
        loading = self.llm_config.model_loading_config
        engine = self.llm_config.engine_kwargs
        found = reference(loading.model_id, loading.model_source, engine.get("revision"))
        return None if found is None else replace(found, lean=may_be_lean(found, engine, self.settings))

    def _other_nodes(self) -> list[str]:
        """Return Ray's ids of the other nodes on which parts of the engine will read the model."""
        if self.ctx.placement_group is None:
            return []
        table = ray.util.placement_group_table(self.ctx.placement_group)
        here = ray.get_runtime_context().get_node_id()
        return sorted(set(table["bundles_to_node_id"].values()) - {here})

    async def _take_companions(self, model: Reference | None) -> None:
        """Hold the files that the engine reads beside the model. Each is held, or left to the engine, by the rules for
        the model."""
        engine = self.llm_config.get_engine_config().engine_kwargs
        keep_kind(engine)
        loading, written = self.llm_config.model_loading_config, self.llm_config.engine_kwargs
        for companion in companions(written, loading.tokenizer_source, model):
            if self._held is not None and model is not None and companion.is_part_of(model):
                companion.put(engine, self._held.path)
                continue
            wanted, what = companion.reference, companion.what
            settings, lost = companion.settings(self.settings), companion.is_lost(engine)
            found = await self._hold(wanted, settings, companion.name_in, what, lost)
            if found is None:
                companion.put_source(engine)
            else:
                held, name = found
                companion.put(engine, name)
                log.info("%s use=%s", line(wanted, held), what.replace(" ", "_"))

    async def _place_extra_files(self) -> None:
        """Copy the mirror's extra files from the cache. Without a daemon Ray fetches them, if `fallback` allows it."""
        engine = self.llm_config.get_engine_config()
        extras = extra_files(engine.mirror_config)
        if not extras:
            return
        try:
            await place_everywhere(extras, self.settings, self._other_nodes(), self.ctx.runtime_env)
        except DaemonUnavailable as error:
            if self.settings.fallback == "error":
                raise DaemonUnavailable(f"{error.message} Or allow fallback='remote'.") from error
            log.warning("%s Ray fetches them from the source instead.", error.message)
        else:
            engine.mirror_config = without_extra_files(engine.mirror_config)

    def _use(self) -> None:
        engine = self.llm_config.get_engine_config()
        engine.hf_model_id = self._name
        if engine.mirror_config is not None and engine.mirror_config.extra_files:
            self.ctx.worker_node_download_model = NodeModelDownloadable.NONE  # Ray still fetches the extra files.
        else:
            engine.mirror_config = None
            self.ctx.run_init_node = False
            make_torch_kernels()

    def _use_source(self, wanted: Reference) -> None:
        """Translate a URI that only the cache understands into Ray's form."""
        form = ray_form(wanted)
        if form is not None:
            engine = self.llm_config.get_engine_config()
            engine.hf_model_id, revision = form
            if revision is not None:
                engine.engine_kwargs["revision"] = revision


def _callback_of(llm_config: Any) -> CachedModelCallback | None:
    callback = llm_config.get_or_create_callback()
    return callback if isinstance(callback, CachedModelCallback) else None


def _sentence(wanted: Reference, error: CachedError, what: str = "") -> str:
    name = f"the {what} {wanted}" if what else str(wanted)
    return f"Cannot load {name} through the model cache: {error.message}"
