"""Start vLLM on a model of the cache, as a replica does, and say what that took: `SOCKET URI SHARE`.

SHARE of the available memory is read ahead into, from the moment when the model is held; 0 is none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from cached import Client


def main(socket: str, uri: str, share: str) -> None:
    began = time.monotonic()
    lease = Client(socket).acquire(uri, offline=True)
    ahead = lease.prefetch(float(share)) if float(share) else None

    from vllm import LLM
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    imported = time.monotonic()
    load, weights = DefaultModelLoader.load_weights, 0.0

    def timed(*given: Any, **more: Any) -> None:
        nonlocal weights
        before = time.monotonic()
        load(*given, **more)
        weights += time.monotonic() - before

    DefaultModelLoader.load_weights = timed
    LLM(model=lease.path, enforce_eager=True, max_model_len=256, max_num_seqs=4, max_num_batched_tokens=256)
    ended = time.monotonic()
    times = os.times()
    took = {"imports_s": imported - began, "weights_s": weights, "start_s": ended - began}
    figures = ahead.figures if ahead else None
    print(json.dumps({**took, "cpu_s": times.user + times.system, "ahead": figures.read if figures else 0}), flush=True)
    os._exit(0)  # An engine takes seconds to end, and nothing of it is measured.


if __name__ == "__main__":
    main(*sys.argv[1:])
