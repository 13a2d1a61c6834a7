"""Whole files by the hf_transfer package (https://github.com/huggingface/hf_transfer), for those who ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hf_transfer

from cached.config import Config
from cached.model import ModelRef
from cached.sources.transfer import unavailable

CHUNK = 10 << 20
RETRIES = 5


class HfTransfer:
    """Used where `engine` says so, or HF_HUB_ENABLE_HF_TRANSFER in the daemon's environment."""

    def __init__(self, config: Config) -> None:
        asked = os.environ.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() in ("1", "ON", "YES", "TRUE")
        self.wanted = asked or config.engine == "hf_transfer"
        self._connections = config.connections

    def fetch(self, ref: ModelRef, url: str, path: Path, progress: Callable[[int], None]) -> None:
        """All of `url`, which must need no token, over `path`. SourceUnavailable when that fails, whatever the cause:
        the package says it in texts that quote the URL, which is signed."""
        try:
            hf_transfer.download(
                url=url,
                filename=str(path),
                max_files=self._connections,
                chunk_size=CHUNK,
                parallel_failures=min(3, self._connections - 1),
                max_retries=RETRIES,
                headers={},
                callback=progress,
            )
        except Exception:
            raise unavailable(ref, "hf_transfer could not fetch it") from None
