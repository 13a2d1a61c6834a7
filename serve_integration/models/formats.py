"""The engine's name for a model that is held, by the format that it loads: a directory, or a file of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cached import ModelIncomplete, ModelNotFound
from serve_integration.models.gguf import gguf_file
from serve_integration.models.model_source import Reference
from serve_integration.settings import Settings

_LEAN = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "runai_streamer", "dummy")


def name_of(wanted: Reference, folder: str, engine_kwargs: dict[str, Any]) -> str:
    """Return the model's name for the engine, and adapt its other settings where needed.

    Raises ModelNotFound when the requested part is not in the folder, ModelIncomplete when the format's files are not.
    """
    if engine_kwargs.get("load_format") == "tensorizer":
        _check_tensors(wanted, folder, engine_kwargs)
    if not wanted.part:
        return folder
    file = gguf_file(folder, wanted.part)
    if file is None:
        raise ModelNotFound(f"There is no such GGUF file at {wanted}; look for its name, or its quantisation, there.")
    # The engine looks for the configuration beside the file, or where the tokenizer is.
    aside = os.path.dirname(file) != folder and os.path.exists(os.path.join(folder, "config.json"))
    if aside and engine_kwargs.get("tokenizer") is None:
        engine_kwargs.setdefault("hf_config_path", folder)
    return file


def may_be_lean(wanted: Reference, engine_kwargs: Mapping[str, Any], settings: Settings) -> bool:
    """Return True if files that vLLM would not read may be left out: not when the user selects files, nor for formats
    that read files other than safetensors or, without those, PyTorch's pickles."""
    chosen = wanted.part or settings.include or settings.exclude or engine_kwargs.get("ignore_patterns") is not None
    return not chosen and engine_kwargs.get("load_format", "auto") in _LEAN


def _check_tensors(wanted: Reference, folder: str, engine_kwargs: dict[str, Any]) -> None:
    """Raise ModelIncomplete if there is no `model.tensors` in the model's directory, where vLLM reads it unless its
    settings name another place.

    The settings do that in a mapping; vLLM's TensorizerConfig is a mapping too.
    """
    extra = engine_kwargs.get("model_loader_extra_config")
    elsewhere = isinstance(extra, Mapping) and any(extra.get(key) for key in ("tensorizer_uri", "tensorizer_dir"))
    if not elsewhere and not any(Path(folder).glob("*.tensors")):
        raise ModelIncomplete(
            f"load_format 'tensorizer' reads model.tensors, and {wanted} has none; write one with vLLM's tensorizer "
            "script and upload it beside the configuration, or take another load_format."
        )
