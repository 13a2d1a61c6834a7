"""What an engine reads beside its model: another repository's tokenizer or configuration, a draft model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_integration.reference import Reference, ray_form, reference
from serve_integration.settings import Settings

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data"),
    *("*.ot", "*.tflite", "*.tensors", "*.npz"),
)
# Engine settings that may name a repository, and the setting with its revision.
_NAMES = (("tokenizer", "tokenizer_revision"), ("hf_config_path", "revision"), ("generation_config", None))
_OWN = {"generation_config": ("auto", "vllm")}  # Words that name none.
_WITHOUT_MODEL = ("ngram", "[ngram]", "ngram_gpu", "suffix", "custom_class", "extract_hidden_states")
# vLLM tells the kind of a draft model from its name, which a path in the cache does not have.
_KINDS = (("eagle-", "eagle"), ("eagle3", "eagle3"), ("dflash", "dflash"), ("dspark", "dspark"))


@dataclass(frozen=True, slots=True)
class Companion:
    """`place`: the keys below which the engine's settings name it. `exclude`: what of it is left out."""

    what: str
    reference: Reference
    place: tuple[str, ...]
    exclude: tuple[str, ...] = ()

    def settings(self, settings: Settings) -> Settings:
        """The user's, without the patterns, which are about the model."""
        return replace(settings, include=(), exclude=self.exclude)

    def put(self, engine_kwargs: dict[str, Any], name: str) -> None:
        """Name it so in the engine's settings. Nested ones are copied: they are the user's."""
        *outer, last = self.place
        for key in outer:
            engine_kwargs[key] = dict(engine_kwargs[key])
            engine_kwargs = engine_kwargs[key]
        engine_kwargs[last] = name

    def is_part_of(self, model: Reference) -> bool:
        """Whether holding that model whole is holding this as well."""
        return replace(self.reference, for_engine=model.for_engine, lean=model.lean) == model and not model.part

    @property
    def at_source(self) -> str:
        """What the engine calls it when it is to fetch it itself."""
        form = ray_form(self.reference)
        return self.reference.uri if form is None else form[0]


def companions(engine_kwargs: Mapping[str, Any], tokenizer_source: str | None = None) -> list[Companion]:
    """Everything that these engine settings name and the cache can be asked for.

    `tokenizer_source` is Ray's, and gives way to the engine's own `tokenizer`.
    """
    named = dict(engine_kwargs)
    if tokenizer_source is not None and named.get("tokenizer") is None:
        named["tokenizer"] = tokenizer_source
    found = []
    for key, revision_key in _NAMES:
        name = named.get(key)
        if isinstance(name, str) and name not in _OWN.get(key, ()):
            meant = reference(name, None, named.get(revision_key) if revision_key else None)
            if meant is not None:
                found.append(Companion(key.replace("_", " "), replace(meant, for_engine=False), (key,), WEIGHTS))
    draft = _draft(named.get("speculative_config"))
    return [*found, draft] if draft else found


def _draft(speculative: Any) -> Companion | None:
    if not isinstance(speculative, Mapping) or speculative.get("method") in _WITHOUT_MODEL:
        return None
    name = speculative.get("model")
    if not isinstance(name, str) or "/" not in name:  # Without a slash it is a method's name, or a class's.
        return None
    meant = reference(name, None, speculative.get("revision"))
    return Companion("draft model", meant, ("speculative_config", "model")) if meant else None


def keep_kind(engine_kwargs: dict[str, Any]) -> None:
    """Write down what vLLM would read from the draft model's name. Call it while the name is still there."""
    speculative = engine_kwargs.get("speculative_config")
    if isinstance(speculative, Mapping) and speculative.get("method") is None:
        name = str(speculative.get("model") or "").lower()
        kind = next((kind for part, kind in _KINDS if part in name), None)
        if kind is not None:
            engine_kwargs["speculative_config"] = {**speculative, "method": kind}
