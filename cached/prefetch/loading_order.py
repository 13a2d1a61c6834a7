"""The order in which an engine reads the files of a model, and the files that it does not read at all.

As vLLM does it (`model_executor/model_loader/default_loader.py`, `weight_utils.py`): one kind of weights, those of the
top directory, only the files that the index names, in the natural order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

# The first kind that exists is loaded.
KINDS = (
    ("consolidated", ".safetensors"),  # Mistral's own format, preferred to the same weights in Hugging Face's.
    ("", ".safetensors"),
    ("", ".bin"),
    ("", ".pt"),
    ("", ".gguf"),
)
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
# Larger files without weights (images, exports to other formats) are not read; the largest tokenizers are half of it.
SMALL = 64 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".onnx", ".h5", ".msgpack", ".tensors")
_PART = re.compile(r"-\d+-of-\d+(?=\.gguf\Z)")


def loading_order(sizes: Mapping[str, int], indexed: Collection[str] = ()) -> list[str]:
    """Return paths relative to the model's directory, in the order in which they are read: small files, then weights.

    `indexed` are the files that the index of the safetensors names; empty if there is no index.
    """
    others = [path for path in sizes if not path.endswith(_WEIGHTS) and sizes[path] <= SMALL]
    weights = [path for path in sizes if path.endswith(_WEIGHTS) and not path.endswith(NO_WEIGHTS)]
    return [*sorted(others, key=lambda path: (sizes[path], path)), *sorted(_loaded(weights, indexed), key=_natural)]


def _loaded(weights: Iterable[str], indexed: Collection[str]) -> list[str]:
    top = [path for path in weights if "/" not in path]
    if not top:  # The layout of diffusers: each part has a directory.
        return [path for path in weights if path.endswith(".safetensors")] or list(weights)
    for start, end in KINDS:
        kind = [path for path in top if path.startswith(start) and path.endswith(end)]
        if end == ".gguf" and len({_PART.sub("", path) for path in kind}) > 1:
            return []  # The same weights in several variants, and only the engine is told which to load.
        if kind:
            return [path for path in kind if path in indexed] or kind
    return top


def _natural(path: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `-2-of-10` before `-10-of-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]
