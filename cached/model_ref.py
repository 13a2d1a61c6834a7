"""A reference to a model: parsed from the text that a person types, with the keys under which it is remembered."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cached import budget
from cached.errors import InvalidRequest
from cached.globs import Globs, escape
from cached.paths import MAX_PATH_BYTES
from cached.uris import canonical, display_name, spoken, with_query

_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes an encoder each time.

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LEAN, _HASHED = "lean", "hashed"
_LONG = 512  # Characters of patterns beyond which a key holds their hash instead.
_UNPRINTED = re.compile(r"[\x00-\x20\x7f]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z")


@dataclass(frozen=True)
class ModelRef:
    """A reference to a model, as a caller requests it. `uri` is canonical: `scheme://place`, with no revision and no
    secret.

    `lean` allows leaving out files that an LLM engine does not read. `query` is the query of an http(s) URL, of which
    `uri` has the hash: it is for the request alone, never remembered or shown. Values that follow from the fields are
    computed once.
    """

    uri: str
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    lean: bool = False
    query: str = field(default="", repr=False, compare=False)

    @classmethod
    def parse(
        cls,
        uri: str,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        lean: bool = False,
    ) -> ModelRef:
        """Parse the text that a person types. A bare `org/name` is a Hub repository; `hf://…@rev` names a revision.
        Raise InvalidRequest if the text is malformed."""
        text = uri.strip()
        if not text or _UNPRINTED.search(text):
            raise InvalidRequest(
                f"{spoken(uri)!r} is not a model URI: it is empty or holds blanks or control characters."
            )
        scheme, separator, place = text.partition("://")
        if not separator:
            scheme, place = "hf", text
        if not _SCHEME.match(scheme) or not place.strip("/"):
            raise InvalidRequest(
                f"{spoken(uri)!r} is not a model URI; try hf://org/name, s3://bucket/prefix or org/name."
            )
        if scheme == "hf":
            place, revision = _split_hub(uri, place, revision)
        named, query = canonical(scheme, place)
        patterns = tuple(sorted(set(include))), tuple(sorted(set(exclude)))
        if revision is not None and not re.match(r"[\w./-]{1,255}\Z", revision, re.ASCII):
            raise InvalidRequest(f"{spoken(revision)[:80]!r} is not a revision: give a branch, a tag or a commit.")
        return cls(named, revision, *patterns, lean, query)

    @classmethod
    def from_key(cls, key: str, files: Iterable[str] = ()) -> ModelRef:
        """Return the ref from which `key` was made. If the key holds a hash of the patterns, the ref selects exactly
        `files` instead, or all files if none are given.

        Raise InvalidRequest if `key` is not a key.
        """
        try:
            uri, revision, include, exclude, *flags = json.loads(key)
            named = str(uri), None if revision is None else str(revision)
            patterns = tuple(map(str, include)), tuple(map(str, exclude))
            if _HASHED in flags:
                patterns = tuple(sorted(map(escape, files))), ()
            return cls(*named, *patterns, lean=_LEAN in flags)
        except (ValueError, TypeError, RecursionError):
            raise InvalidRequest(f"{key[:80]!r} is not what a ref is remembered by.") from None

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    @property
    def place(self) -> str:
        """Return the part after `scheme://`."""
        return self.uri.partition("://")[2]

    @property
    def immutable(self) -> bool:
        """Return True if the revision is a full commit, which can never mean anything else."""
        return self.scheme == "hf" and self.revision is not None and _COMMIT.match(self.revision) is not None

    @cached_property
    def key(self) -> str:
        """Return everything that selects content as one string: the key for single flight and for the index. Long
        patterns are hashed, so that rows and logs do not grow with them."""
        if not self._long:
            return self._whole_key
        hashed = hashlib.sha256(_json([self.include, self.exclude]).encode()).hexdigest()
        return _json([self.uri, self.revision, [f"sha256:{hashed}"], [], *self._flags, _HASHED])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the keys under which the model may be known, its own first. For a lean ref the complete model also
        serves. Earlier versions wrote long patterns out."""
        own = (self.key, self._whole_key) if self._long else (self.key,)
        return own + replace(self, lean=False).keys if self.lean else own

    @property
    def _long(self) -> bool:
        return sum(map(len, (*self.include, *self.exclude))) > _LONG

    @property
    def _whole_key(self) -> str:
        return _json([self.uri, self.revision, self.include, self.exclude, *self._flags])

    @property
    def _flags(self) -> list[str]:
        return [_LEAN] if self.lean else []

    def at(self, revision: str) -> ModelRef:
        return replace(self, revision=revision)

    def selects(self, path: str) -> bool:
        """Return True if the patterns select this file: some `include` matches (or none is given), and no `exclude`
        does.

        A path that is too long for any file is always selected, so that its listing is refused.
        """
        budget.check()
        if len(path) > MAX_PATH_BYTES:
            return True
        include, exclude = self._patterns
        return (not self.include or include.match(path)) and not exclude.match(path)

    @cached_property
    def _patterns(self) -> tuple[Globs, Globs]:
        """Compile the patterns as huggingface_hub reads them: `*` crosses `/`, a trailing `/` means a whole folder."""
        both = [
            [f"{each}*" if each.endswith("/") else each for each in given] for given in (self.include, self.exclude)
        ]
        return Globs(both[0]), Globs(both[1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields without the computed values."""
        return ModelRef, (self.uri, self.revision, self.include, self.exclude, self.lean, self.query)

    @property
    def url(self) -> str:
        """Return the URL to request from an http(s) server. Raise InvalidRequest if the query is no longer known."""
        return with_query(self.uri, self.query)

    def __str__(self) -> str:
        """Return the name that is shown to people."""
        name = display_name(self.uri)
        return f"{name}@{self.revision}" if self.revision else name


def _split_hub(uri: str, place: str, revision: str | None) -> tuple[str, str | None]:
    name, _, inline = place.strip("/").partition("@")
    if not _HUB_NAME.match(name) or ".." in name or "--" in name:
        raise InvalidRequest(
            f"{spoken(uri)!r} is not a Hub repository; give hf://org/name or org/name, with @revision."
        )
    if inline and revision and inline != revision:
        raise InvalidRequest(
            f"{name!r} is given with the revision {spoken(inline)!r}, but {spoken(revision)!r} was asked for; give one."
        )
    if "@" in place and not inline:
        raise InvalidRequest(f"{spoken(uri)!r} ends in '@' with no revision after it.")
    return name, inline or revision
