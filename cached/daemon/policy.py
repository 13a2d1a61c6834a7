"""What may be fetched for whom: rules over file names, applied to a listing before the first byte."""

from __future__ import annotations

import logging
import re
from collections.abc import Set
from pathlib import Path

from cached.daemon.shards import absent_numbers, check_index, index_of, refuse_absent
from cached.errors import InvalidRequest, ModelIncomplete
from cached.model import Digest, Listing, ModelRef

log = logging.getLogger("cached.policy")

# Pickles and Python run code when they are loaded (PyTorch CVE-2025-32434, vLLM CVE-2026-22807).
RUNS_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py")
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_IDLE = re.compile(
    r"(original|metal)/|(.*/)?(onnx|coreml|openvino)/"
    r"|(.*/)?(flax_model.*\.msgpack|tf_model.*\.h5|rust_model\.ot|.*\.onnx(_data)?|.*\.tflite|.*\.mlmodel)\Z"
)
_PICKLED = re.compile(
    r"pytorch_model(-\d{5}-of-\d{5})?\.bin\Z|pytorch_model\.bin\.index\.json\Z|consolidated(\.\d+)?\.pth\Z"
)
_CONFIGS = ("config.json", "params.json")  # Transformers', Mistral's.


def check_weights(listing: Listing, policy: str) -> None:
    """InvalidRequest when the listing holds files that run code and the policy refuses them."""
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
    """ModelIncomplete unless an LLM engine would find its configuration and every numbered shard among these paths."""
    if not any(name in paths for name in _CONFIGS) and not any(path.endswith(".gguf") for path in paths):
        raise ModelIncomplete(f"{ref} has no config.json, so no engine could load it; check the URI and the patterns.")
    refuse_absent(ref, absent_numbers(paths), "its shards are numbered, which promises")


def leave_out(listing: Listing) -> Listing:
    """For a lean ref, without what vLLM does not read: other frameworks' weights, `original/` and `metal/` of converted
    models, and PyTorch's pickles beside the same weights in safetensors."""
    if not listing.ref.lean:
        return listing
    safe = any(entry.path in _SAFE for entry in listing.entries)
    needed = tuple(entry for entry in listing.entries if not _idle(entry.path, safe))
    return listing.part(needed) if needed else listing


def _idle(path: str, safe: bool) -> bool:
    """Whether no engine reads it, in a model that has safetensors or has not."""
    return _IDLE.match(path) is not None or (safe and _PICKLED.match(path) is not None)


class Loadable:
    """Which snapshots an LLM engine could load; each is looked into once, and not at every hit."""

    def __init__(self) -> None:
        self._known: set[tuple[Digest, str]] = set()

    def add(self, ref: ModelRef, digest: Digest) -> None:
        self._known.add((digest, ref.key))

    def check(self, ref: ModelRef, digest: Digest, folder: Path) -> None:
        """ModelIncomplete when something is missing that the engine, or the model's own index, wants."""
        if (digest, ref.key) in self._known:
            return
        paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        check_loadable(ref, paths)
        if index := index_of(paths):
            check_index(ref, folder / index, paths)
        self.add(ref, digest)
