"""Whether a model has all its shards: by their numbers, and by the index that an engine would go by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Set
from pathlib import Path

from cached.errors import ModelIncomplete
from cached.model import ModelRef

MAX_INDEX = 64 << 20  # Bytes; an index that is larger is left to the engine.
_SAFE = ".safetensors"
_SAFE_INDEXES = ("model.safetensors.index.json", "consolidated.safetensors.index.json")
_BIN_INDEX = "pytorch_model.bin.index.json"  # Counts only where there is nothing in safetensors.
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.(safetensors|bin|gguf))\Z")


def index_of(paths: Set[str]) -> str | None:
    """The index that vLLM and transformers load this model by; None when they take whatever files there are."""
    safe = next((name for name in _SAFE_INDEXES if name in paths), None)
    if safe is not None:
        return safe
    return _BIN_INDEX if _BIN_INDEX in paths and not any(path.endswith(_SAFE) for path in paths) else None


def absent_numbers(paths: Set[str]) -> list[str]:
    """What `…-00001-of-00003…` promises and is not there, of models without an index."""
    if index_of(paths) is not None:
        return []
    safe = any(path.endswith(_SAFE) for path in paths)
    absent: set[str] = set()
    for path in paths:
        match = _NUMBERED.match(path)
        if match and "/" not in path and not (safe and match["suffix"] == ".bin"):
            count = min(int(match["count"]), 10_000)
            names = {f"{match['stem']}-{n:05}-of-{match['count']}{match['suffix']}" for n in range(1, count + 1)}
            absent |= names - paths
    return sorted(absent)


def absent_in(index: bytes, paths: Set[str]) -> list[str]:
    """The shards that the index names and that are not among these paths. ValueError when it is no index."""
    try:
        shards = set(json.loads(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("no weight_map") from None
    return sorted(str(shard) for shard in shards if shard not in paths)


def refuse_absent(ref: ModelRef, absent: Iterable[str], promise: str) -> None:
    """ModelIncomplete for shards that are not there, unless the caller's patterns leave them out. `promise`: who
    named them."""
    wanted = [name for name in absent if ref.selects(name)]
    if wanted:
        more = f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""
        raise ModelIncomplete(
            f"{ref} is not whole: {promise} {wanted[0]}{more}, but there is no such file; finish the upload, then try "
            "again."
        )


def check_index(ref: ModelRef, index: Path, paths: Set[str]) -> None:
    """ModelIncomplete when the index file cannot be read as one, or names shards that are not among these paths."""
    if index.stat().st_size > MAX_INDEX:
        return
    name = index_of(paths)
    try:
        absent = absent_in(index.read_bytes(), paths)
    except ValueError:
        raise ModelIncomplete(f"{ref} is not whole: its {name} is no index of shards; upload it again.") from None
    refuse_absent(ref, absent, f"its {name} names")
