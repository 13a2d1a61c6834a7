"""A clock around vLLM's own download from the Hub, which happens in its worker: importing this module sets it."""

from __future__ import annotations

import time
from typing import Any

from vllm.model_executor.model_loader import default_loader

from tests.bench.waits import note

_download = default_loader.download_weights_from_hf


def _timed(*given: Any, **more: Any) -> str:
    asked = time.time()
    folder: str = _download(*given, **more)
    note(asked)
    return folder


default_loader.download_weights_from_hf = _timed


class WeightsClock:
    """The `worker_extension_cls` of an engine: vLLM imports it in the worker before the model is loaded."""
