"""A model as a caller names it: parsed from what a person types, and the keys by which it is remembered."""

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

_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes one each time.

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LEAN, _HASHED = "lean", "hashed"
_LONG = 512  # Characters of patterns in a key, beyond which their hash stands for them.
_UNPRINTED = re.compile(r"[\x00-\x20\x7f]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z")


@dataclass(frozen=True)
class ModelRef:
    """What a caller asks for. `uri` is canonical: `scheme://place`, with no revision and no secret in it.

    `lean`: what an LLM engine does not read may be left out. `query` is that of an http(s) URL, of which `uri` has the
    hash: for the request alone, never to be remembered or shown. What follows from the fields is worked out once.
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
        """From what a person types. A bare `org/name` is a Hub repository; `hf://…@rev` names a revision."""
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
        """What `key` came from; where that holds a hash of patterns, what selects exactly these files instead, or all.

        InvalidRequest when it is none.
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
        """What follows `scheme://`."""
        return self.uri.partition("://")[2]

    @property
    def immutable(self) -> bool:
        """Whether the revision is a full commit, which can never mean anything else."""
        return self.scheme == "hf" and self.revision is not None and _COMMIT.match(self.revision) is not None

    @cached_property
    def key(self) -> str:
        """Everything that selects content, as one string: what single flight and the index go by. Long patterns are
        hashed: rows and logs are not to grow with them."""
        if not self._long:
            return self._whole_key
        hashed = hashlib.sha256(_json([self.include, self.exclude]).encode()).hexdigest()
        return _json([self.uri, self.revision, [f"sha256:{hashed}"], [], *self._flags, _HASHED])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What it may be known by, its own key first: for a lean one the whole model will do. Earlier versions wrote
        long patterns out."""
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
        """Whether the patterns take this file: some include (or none given), and no exclude.

        A path that is too long for any file is taken, whatever they say: its listing is refused for it.
        """
        budget.check()
        if len(path) > MAX_PATH_BYTES:
            return True
        include, exclude = self._patterns
        return (not self.include or include.match(path)) and not exclude.match(path)

    @cached_property
    def _patterns(self) -> tuple[Globs, Globs]:
        """As huggingface_hub reads them: `*` crosses `/`, and a trailing `/` means the whole folder."""
        both = [
            [f"{each}*" if each.endswith("/") else each for each in given] for given in (self.include, self.exclude)
        ]
        return Globs(both[0]), Globs(both[1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is worked out."""
        return ModelRef, (self.uri, self.revision, self.include, self.exclude, self.lean, self.query)

    @property
    def url(self) -> str:
        """What is asked of an http(s) server. InvalidRequest where the query is not known any more."""
        return with_query(self.uri, self.query)

    def __str__(self) -> str:
        """The name for people."""
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
