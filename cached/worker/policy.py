"""Rules over file names that decide which files a caller may fetch, applied to a listing before the first byte.

In a worker, because sources choose how many files there are, and callers how many patterns.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Set
from pathlib import Path

from cached import budget
from cached.errors import InvalidRequest, ModelIncomplete
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.worker.shards import absent_numbers, index_of, refuse_absent, refuse_absent_of, shards_of

log = logging.getLogger("cached.policy")

# Pickles and Python run code when they are loaded (PyTorch CVE-2025-32434, vLLM CVE-2026-22807).
RUNS_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py")
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_IDLE_ROOTS = ("original/", "metal/")
_IDLE_FOLDERS = frozenset(("onnx", "coreml", "openvino"))
_IDLE_ENDS = (".onnx", ".onnx_data", ".tflite", ".mlmodel")
_IDLE_KINDS = (("flax_model", ".msgpack"), ("tf_model", ".h5"))
_PICKLED = re.compile(
    r"pytorch_model(-[0-9]{5}-of-[0-9]{5})?\.bin\Z|pytorch_model\.bin\.index\.json\Z|consolidated(\.[0-9]+)?\.pth\Z"
)
_CONFIGS = ("config.json", "params.json")  # Transformers', Mistral's.


def check_weights(listing: Listing, policy: str) -> None:
    """Raise InvalidRequest if the listing has files that run code and the policy refuses them; log them if it warns."""
    risky = [entry.path for entry in listing.entries if entry.path.endswith(RUNS_CODE)]
    if not risky or policy == "allow":
        return
    if policy == "refuse":
        raise InvalidRequest(
            f"{listing.ref} holds files that run code when loaded ({', '.join(risky[:3])}), and the setting `weights` "
            "refuses those; exclude them, or use a model in safetensors."
        )
    log.warning("weights.run_code", extra={"ref": str(listing.ref), "files": ", ".join(risky[:3])})


def check_loadable(ref: ModelRef, paths: Set[str]) -> None:
    """Raise ModelIncomplete unless an LLM engine would find its configuration and every numbered shard among these
    paths."""
    if not any(name in paths for name in _CONFIGS) and not any(path.endswith(".gguf") for path in paths):
        raise ModelIncomplete(f"{ref} has no config.json, so no engine could load it; check the URI and the patterns.")
    refuse_absent(ref, absent_numbers(paths), "its shards are numbered, which promises")


def leave_out(listing: Listing) -> Listing:
    """Return the listing, for a lean ref without the files that vLLM does not read: other frameworks' weights,
    `original/` and `metal/` of converted models, and PyTorch's pickles beside the same weights in safetensors."""
    if not listing.ref.lean:
        return listing
    safe = any(entry.path in _SAFE for entry in listing.entries)
    needed = tuple(entry for entry in listing.entries if not _idle(entry.path, safe))
    return listing.part(needed) if needed else listing


def _idle(path: str, safe: bool) -> bool:
    """Return True if no engine reads the file; `safe` says that the model has safetensors."""
    *folders, name = path.split("/")
    return (
        path.startswith(_IDLE_ROOTS)
        or not _IDLE_FOLDERS.isdisjoint(folders)
        or path.endswith(_IDLE_ENDS)
        or name == "rust_model.ot"
        or any(
            path.endswith(end) and any(part.startswith(kind) for part in (*folders, name)) for kind, end in _IDLE_KINDS
        )
        or (safe and _PICKLED.match(path) is not None)
    )


def applied(listing: Listing, weights: str, require: str | None) -> Listing:
    """Return the listing of the files to fetch. Raise InvalidRequest or ModelIncomplete if a rule refuses the model."""
    kept = leave_out(listing)
    budget.check()
    check_weights(kept, weights)
    if require == "llm":
        check_loadable(kept.ref, {entry.path for entry in kept.entries})
    return kept


def inspect(ref: ModelRef, folder: Path) -> None:
    """Raise ModelIncomplete if a snapshot's directory lacks a file that an LLM engine, or its own index, needs."""
    paths = set(_files(str(folder)))
    check_loadable(ref, paths)
    if name := index_of(paths):
        refuse_absent_of(ref, name, shards_of(ref, name, folder / name), paths)


def _files(folder: str) -> Iterator[str]:
    for inner, _, names in os.walk(folder):
        below = os.path.relpath(inner, folder)
        yield from names if below == "." else (f"{below}/{name}" for name in names)
