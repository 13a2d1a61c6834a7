"""The model that an LLMConfig means, as a reference for the cache. Knows the shapes of Ray's configuration, but not
Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_integration.models.gguf import BESIDE, gguf_parts, weights

# Also `org/name@revision`.
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?\Z")
DEFAULT_REVISION = "main"  # The Hub's.
NO_FALLBACK = "There is no fallback: to whoever loads from the source its name alone means another."
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that can be requested from the cache.

    `part` follows the place when only some of its files are meant: `:Q4_K_M`, `/folder/file.gguf`. `for_engine`: it is
    useful only if an engine could load it. `lean`: files that vLLM does not read may be left out.
    """

    uri: str
    revision: str | None = None
    part: str = ""
    for_engine: bool = True
    lean: bool = False

    def __str__(self) -> str:
        name = self.uri + self.part
        return f"{name}@{self.revision}" if self.revision else name

    @property
    def include(self) -> tuple[str, ...]:
        """Return patterns of the files that are meant, and of those that belong to them; none for the whole place."""
        return (*weights(self.part), *BESIDE) if self.part else ()

    @property
    def asked(self) -> str | None:
        """Return the revision that is meant, wherever it is written; None where a source has no revisions."""
        if not self.uri.startswith("hf://"):
            return None
        return _hub_parts(self.uri)[1] or self.revision or DEFAULT_REVISION

    @property
    def moves(self) -> bool:
        """Return True if it can be pinned to a commit and is not yet: a Hub repository by name, branch or tag."""
        return self.asked is not None and _COMMIT.match(self.asked) is None

    def at(self, revision: str) -> Reference:
        """Return the reference at this revision, where its source has revisions; otherwise unchanged."""
        if self.asked is None:
            return self
        return replace(self, uri=f"hf://{_hub_parts(self.uri)[0]}", revision=revision)

    @property
    def is_ambiguous(self) -> bool:
        """Return True if an engine that receives its name would fetch another model."""
        return self.asked is not None and _modelscope_is_meant()

    def or_at(self, revision: str | None) -> Reference:
        """Return the reference, at this revision if it names none itself."""
        named = self.revision or _hub_parts(self.uri)[1]
        return self if named or revision is None else self.at(revision)

    def is_repository_of(self, other: Reference) -> bool:
        """Return True if both are of one Hub repository, at any revision."""
        on_hub = self.asked is not None and other.asked is not None
        return on_hub and _hub_parts(self.uri)[0] == _hub_parts(other.uri)[0]

    def is_same_place(self, other: Reference) -> bool:
        """Return True if both mean the same files of one place at one revision, however they are written."""
        alike = self.uri == other.uri or self.is_repository_of(other)
        return alike and (self.asked, self.part) == (other.asked, other.part)


def reference(model_id: str, source: Any, revision: str | None = None) -> Reference | None:
    """Return the model that `model_source` names, or `model_id` when it is left out; None for a name that only the
    engine can read.

    `source` is None, a text, or Ray's CloudMirrorConfig as an object or a mapping. `revision` is the engine's own
    setting; it applies to Hub repositories only, as it does in Ray.
    """
    text = _without_client(_place(source) or model_id)
    if is_local(text):
        return None
    text, part = gguf_parts(text)
    scheme, separator, _ = text.partition("://")
    if separator:
        return Reference(text, revision if scheme == "hf" else None, part)
    if not _HUB.match(text) or text.lower().endswith(".gguf") or _modelscope_is_meant():
        return None
    return Reference(f"hf://{text}", revision, part)


def files_reference(uri: str) -> Reference | None:
    """Return the folder or the one object that a URI names, whatever the name looks like; None for a text that is no
    URI."""
    text = _without_client(uri)
    return Reference(text, for_engine=False) if "://" in text else None


def is_local(text: str) -> bool:
    return text.startswith(("/", ".", "~")) or os.path.isdir(text)


def _modelscope_is_meant() -> bool:
    """Return True if vLLM (`envs.py`) reads names without a scheme as models of ModelScope, which is no source of the
    cache."""
    return os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true")


def _without_client(text: str) -> str:
    """Return the URI without Ray's choice of client: pyarrow-s3:// and s3:// are one place to the cache."""
    return text.removeprefix("pyarrow-")


def _place(source: Any) -> str | None:
    if source is None or isinstance(source, str):
        return source
    place = source.get("bucket_uri") if isinstance(source, Mapping) else getattr(source, "bucket_uri", None)
    return None if place is None else str(place)


def ray_form(wanted: Reference) -> tuple[str, str | None] | None:
    """Return Ray's form of a URI that only the cache understands: a name or path, and a revision.

    None when Ray reads the URI as it is.
    """
    scheme, _, place = wanted.uri.partition("://")
    if scheme == "file":
        return place, None
    if scheme != "hf":
        return None
    name, inline = _hub_parts(wanted.uri)
    return name + wanted.part, inline or wanted.revision


def _hub_parts(uri: str) -> tuple[str, str]:
    """Return `org/name` and the revision that is part of the URI, empty if there is none."""
    name, _, inline = uri.partition("://")[2].strip("/").partition("@")
    return name, inline
