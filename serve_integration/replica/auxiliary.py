"""The files that an engine reads beside its model: another repository's tokenizer or configuration, a draft model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_integration.models.formats import name_of
from serve_integration.models.model_source import DEFAULT_REVISION, Reference, ray_form, reference
from serve_integration.replica.acquire import Held
from serve_integration.replica.remote_code import check_code, code_revision
from serve_integration.settings import Settings

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data"),
    *("*.ot", "*.tflite", "*.tensors", "*.npz"),
)
# Settings of vLLM that hold a revision, by the setting that it belongs to: the first that is set counts.
_REVISIONS = {
    "tokenizer": ("tokenizer_revision", "revision"),  # For a tokenizer of any repository.
    "hf_config_path": ("revision",),
    "generation_config": (),
    "model": ("revision",),  # Of a draft model: the key beside its name.
}
_OWN = {"generation_config": ("auto", "vllm")}  # Values that name no repository.
_WITHOUT_MODEL = ("ngram", "[ngram]", "ngram_gpu", "suffix", "custom_class", "extract_hidden_states")
# vLLM tells the kind of a draft model from its name, which a path in the cache does not have.
_KINDS = (("eagle-", "eagle"), ("eagle3", "eagle3"), ("dflash", "dflash"), ("dspark", "dspark"))


@dataclass(frozen=True, slots=True)
class Companion:
    """A reference that the engine's settings name beside the model. `place`: the keys below which they name it.
    `revision_key`: the key beside its name that sets its revision and no other's. `code_revision`: the revision from
    which the engine is to take its code, if it may run any."""

    what: str
    reference: Reference
    place: tuple[str, ...]
    revision_key: str | None = None
    code_revision: str | None = None

    def settings(self, settings: Settings) -> Settings:
        """Return the user's settings without the patterns, which are for the model. Weights are fetched of a draft
        model only."""
        weights = self.reference.part or self.place[-1] == "model"
        return replace(settings, include=(), exclude=() if weights else WEIGHTS)

    def name_in(self, held: Held) -> str:
        """Return the engine's name for the held copy. Raises CachedError when the engine could not use it."""
        check_code(self.reference, held, self.code_revision)
        return name_of(self.reference, held.path, {})

    def put(self, engine_kwargs: dict[str, Any], name: str, key: str | None = None) -> None:
        """Set its name in the engine's settings. Nested mappings are copied, because they are the user's."""
        *outer, last = self.place
        for each in outer:
            engine_kwargs[each] = dict(engine_kwargs[each])
            engine_kwargs = engine_kwargs[each]
        engine_kwargs[key or last] = name

    def put_source(self, engine_kwargs: dict[str, Any]) -> None:
        """Set the name for an engine that is to fetch it itself. Do not call it where `is_lost` is True."""
        form = ray_form(self.reference)
        revision = self._unsaid_revision(engine_kwargs)
        self.put(engine_kwargs, self.reference.uri if form is None else form[0])
        if revision is not None:
            self.put(engine_kwargs, revision, self.revision_key)

    def is_lost(self, engine_kwargs: Mapping[str, Any]) -> bool:
        """Return True if an engine that fetches it itself would take another revision, and no setting could prevent
        that."""
        return self.revision_key is None and self._unsaid_revision(engine_kwargs) is not None

    def _unsaid_revision(self, engine_kwargs: Mapping[str, Any]) -> str | None:
        """Return the revision that is meant, if the engine would not take it by itself; else None."""
        for key in self.place[:-1]:
            engine_kwargs = engine_kwargs[key]
        taken = [engine_kwargs.get(key) for key in _REVISIONS[self.place[-1]]]
        default = next((each for each in taken if each is not None), DEFAULT_REVISION)
        return None if self.reference.asked in (None, default) else self.reference.asked

    def is_part_of(self, model: Reference) -> bool:
        """Return True if holding that model complete also holds this reference."""
        return self.reference.is_same_place(model) and not model.part


def companions(
    engine_kwargs: Mapping[str, Any], tokenizer_source: str | None = None, model: Reference | None = None
) -> list[Companion]:
    """Return all references that a user's engine settings name and that can be requested from the cache.

    `tokenizer_source` is Ray's; the engine's own `tokenizer` comes before it. `model` is the model that the settings
    are for.
    """
    named = dict(engine_kwargs)
    if tokenizer_source is not None and named.get("tokenizer") is None:
        named["tokenizer"] = tokenizer_source
    found = [
        _tokenizer(named, model),
        _repository(named, "hf_config_path", named.get("revision"), code_revision(named, named)),
        _repository(named, "generation_config", None),
        _draft(named),
    ]
    return [companion for companion in found if companion is not None]


def _repository(named: Mapping[str, Any], key: str, revision: str | None, code: str | None = None) -> Companion | None:
    """Return the companion at this revision, unless its name has one; None where the settings name none."""
    meant = _meant(named, key)
    return None if meant is None else Companion(key.replace("_", " "), meant.or_at(revision), (key,), None, code)


def _tokenizer(named: Mapping[str, Any], model: Reference | None) -> Companion | None:
    """Return the tokenizer at the revision that vLLM takes: its own, or else the model's (`config/model.py`). Without a
    name, return the model's own tokenizer where that is wanted at another revision than the model."""
    revision = named.get("tokenizer_revision")
    if named.get("tokenizer") is not None:
        meant = _meant(named, "tokenizer", revision)
        if meant is not None:
            meant = meant.or_at(named.get("revision"))
            meant = meant.or_at(model.asked) if model is not None and meant.is_repository_of(model) else meant
    elif model is None or model.asked is None or revision in (None, model.asked):
        meant = None
    else:
        meant = replace(model.at(revision), for_engine=False, lean=False)
    return None if meant is None else Companion("tokenizer", meant, ("tokenizer",), "tokenizer_revision")


def _meant(named: Mapping[str, Any], key: str, revision: str | None = None) -> Reference | None:
    name = named.get(key)
    if not isinstance(name, str) or name in _OWN.get(key, ()):
        return None
    meant = reference(name, None, revision)
    return None if meant is None else replace(meant, for_engine=False)


def _draft(named: Mapping[str, Any]) -> Companion | None:
    speculative = named.get("speculative_config")
    if not isinstance(speculative, Mapping) or speculative.get("method") in _WITHOUT_MODEL:
        return None
    name = speculative.get("model")
    if not isinstance(name, str) or "/" not in name:  # Without a slash it is a method's name, or a class's.
        return None
    meant = reference(name, None, speculative.get("revision"))
    code = code_revision(speculative, named)
    return Companion("draft model", meant, ("speculative_config", "model"), "revision", code) if meant else None


def keep_kind(engine_kwargs: dict[str, Any]) -> None:
    """Set the method that vLLM would read from the draft model's name. Call it while the name is still there."""
    speculative = engine_kwargs.get("speculative_config")
    if isinstance(speculative, Mapping) and speculative.get("method") is None:
        name = str(speculative.get("model") or "").lower()
        kind = next((kind for part, kind in _KINDS if part in name), None)
        if kind is not None:
            engine_kwargs["speculative_config"] = {**speculative, "method": kind}
