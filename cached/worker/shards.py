"""Check that a model has all its shards: by their numbers, and by the index that an engine uses."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Collection, Container, Iterable, Iterator, Set
from pathlib import Path

from cached.errors import ModelIncomplete
from cached.model_ref import ModelRef
from cached.paths import MAX_PATH_BYTES

MAX_INDEX = 32 << 20  # Bytes; an index that is larger is left to the engine.
MAX_SHARDS = 10_000  # Shards that an index may name; also missing ones that are matched with the caller's patterns.
_SAFE = ".safetensors"
_SAFE_INDEXES = ("model.safetensors.index.json", "consolidated.safetensors.index.json")
_BIN_INDEX = "pytorch_model.bin.index.json"  # Used only where the model has no safetensors.
_NUMBERED = re.compile(r"(?P<stem>[^/]+)-[0-9]{5}-of-(?P<count>[0-9]{5})(?P<suffix>\.(safetensors|bin|gguf))\Z")

_reading = threading.Lock()  # One index at a time: parsed, it takes many times its size.


def index_of(paths: Collection[str]) -> str | None:
    """Return the index by which vLLM and transformers load this model; None if they load whatever files there are."""
    safe = next((name for name in _SAFE_INDEXES if name in paths), None)
    if safe is not None:
        return safe
    return _BIN_INDEX if _BIN_INDEX in paths and not any(path.endswith(_SAFE) for path in paths) else None


def absent_numbers(paths: Set[str]) -> Iterator[str]:
    """Yield the files that `…-00001-of-00003…` promises and that are missing, for models without an index. Yield each
    as it is found: a few names can promise millions."""
    if index_of(paths) is not None:
        return
    safe = any(path.endswith(_SAFE) for path in paths)
    promises: dict[tuple[str, str, str], None] = {}
    for match in filter(None, map(_NUMBERED.match, paths)):
        if not (safe and match["suffix"] == ".bin"):
            promises[match["stem"], match["count"], match["suffix"]] = None
    for stem, count, suffix in promises:
        for number in range(1, int(count) + 1):
            name = f"{stem}-{number:05}-of-{count}{suffix}"
            if name not in paths:
                yield name


def refuse_absent(ref: ModelRef, absent: Iterable[str], promise: str) -> None:
    """Raise ModelIncomplete for the first missing shard, unless the caller's patterns leave it out. `promise` is the
    beginning of the message, which says where it was named."""
    wanted = next(filter(ref.selects, itertools.islice(absent, MAX_SHARDS)), None)
    if wanted is not None:
        raise ModelIncomplete(
            f"{ref} is not whole: {promise} {wanted}, but there is no such file; finish the upload, then try again."
        )


def refuse_absent_of(ref: ModelRef, name: str, shards: Iterable[str], paths: Container[str]) -> None:
    """Raise ModelIncomplete if the index of this name names shards that are not among the paths."""
    refuse_absent(ref, (shard for shard in shards if shard not in paths), f"its {name} names")


def shards_of(ref: ModelRef, name: str, index: Path) -> tuple[str, ...]:
    """Return the shards that this file, the index of this name, names and that the caller's patterns select. Return
    none if it is too large.

    Raise ModelIncomplete if it is not an index of shards.
    """
    if index.stat().st_size > MAX_INDEX:
        return ()
    try:
        with _reading:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        named = {""}
    if len(named) > MAX_SHARDS or not all(
        isinstance(shard, str) and 0 < len(shard) <= MAX_PATH_BYTES for shard in named
    ):
        raise ModelIncomplete(f"{ref} is not whole: its {name} is no index of shards; upload it again.")
    return tuple(sorted(filter(ref.selects, named)))
