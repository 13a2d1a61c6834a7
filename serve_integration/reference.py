"""Which model an LLMConfig means, in the cache's words. Knows the shapes of Ray's configuration, but not Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Also `org/name@revision`. What else vLLM takes for a model (`org/name:Q4_K_M`, a .gguf file) is part of a repository.
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that the cache can be asked for."""

    uri: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.uri}@{self.revision}" if self.revision else self.uri


def reference(model_id: str, source: Any, revision: str | None = None) -> Reference | None:
    """The model that `model_source` names, or `model_id` when it is left out; None for what only the engine can read.

    `source` is None, a text, or Ray's CloudMirrorConfig as an object or a mapping. `revision` is the engine's own
    setting; it means something for Hub repositories only, as it does to Ray.
    """
    text = _place(source) or model_id
    if text.startswith(("/", ".", "~")) or os.path.isdir(text):
        return None
    scheme, separator, _ = text.partition("://")
    if separator:
        return Reference(text, revision if scheme == "hf" else None)
    if not _HUB.match(text) or text.lower().endswith(".gguf"):
        return None
    return Reference(f"hf://{text}", revision)


def _place(source: Any) -> str | None:
    if source is None or isinstance(source, str):
        return source
    place = source.get("bucket_uri") if isinstance(source, Mapping) else getattr(source, "bucket_uri", None)
    return None if place is None else str(place)


def ray_form(wanted: Reference) -> tuple[str, str | None] | None:
    """What Ray calls the same model, for a URI that only the cache understands: a name or path, and a revision.

    None when Ray reads the URI as it is.
    """
    scheme, _, place = wanted.uri.partition("://")
    if scheme == "file":
        return place, None
    if scheme != "hf":
        return None
    name, _, inline = place.strip("/").partition("@")
    return name, inline or wanted.revision
