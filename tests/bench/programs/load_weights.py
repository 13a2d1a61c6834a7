"""Read all weights as vLLM's loaders do, in turn, and say what each took: `{"rounds": 3, "loads": [[WAY, DIR, true]]}`.

A load is a way, a folder, and whether its files are dropped from the page cache first. The order is turned round each
time. `unmeasured` rounds come before the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.model_loader import weight_utils

from cached.prefetch.prefetch import Prefetch
from tests.page_cache import forget_all

THREADS = 8  # vLLM's own number for its multi-threaded loader.


def main(order: str) -> None:
    asked = json.loads(order)
    sink = torch.zeros(1 << 27, dtype=torch.bfloat16)  # Where tensors go, as parameters would.
    took: list[list[dict[str, float]]] = [[] for _ in asked["loads"]]
    numbered = list(enumerate(asked["loads"]))
    for turn in range(asked["rounds"] + asked.get("unmeasured", 0)):
        for number, (way, folder, cold) in numbered if turn % 2 else reversed(numbered):
            files = [str(path) for path in Path(folder).glob("*.safetensors")]
            if cold:
                forget_all([Path(file) for file in files])
            cost = load(way, files, sink)
            if turn >= asked.get("unmeasured", 0):
                took[number].append(cost)
    print(json.dumps(took))


def load(way: str, files: list[str], sink: torch.Tensor) -> dict[str, float]:
    began, before = time.monotonic(), time.process_time()
    for _, tensor in tensors(way, files):
        sink[: tensor.numel()].copy_(tensor.view(-1))
    return {"seconds": time.monotonic() - began, "cpu": time.process_time() - before}


def tensors(way: str, files: list[str]) -> Iterator[tuple[str, Any]]:
    if way == "multithread":
        return weight_utils.multi_thread_safetensors_weights_iterator(files, False, max_workers=THREADS)
    if way == "runai_streamer":
        return weight_utils.runai_safetensors_weights_iterator(files, False)
    if way == "ahead":  # Beginning in the same moment as the loader.
        Prefetch(os.path.dirname(files[0]))
    strategy = None if way in ("default", "ahead") else way
    return weight_utils.safetensors_weights_iterator(files, False, strategy)


if __name__ == "__main__":
    main(*sys.argv[1:])
