"""Fetch complete files with the hf_transfer package (https://github.com/huggingface/hf_transfer), where an operator
wants it.

The package keeps Python's lock for as long as a download takes, so each download is a process of its own: in the
worker's, nothing else would be fetched meanwhile.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cached.config import Config
from cached.model_ref import ModelRef
from cached.sources.transport.ranges import unavailable

CHUNK = 10 << 20
RETRIES = 5
PATIENCE = 10  # Read time-outs without the end of any chunk; the package itself has no time-out.

_WORKER = Path(__file__).with_name("hf_transfer_worker.py")


class HfTransfer:
    """Run hf_transfer. Enabled by the setting `engine`, or by HF_HUB_ENABLE_HF_TRANSFER in the daemon's environment."""

    def __init__(self, config: Config) -> None:
        asked = os.environ.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() in ("1", "ON", "YES", "TRUE")
        self.wanted = asked or config.engine == "hf_transfer"
        self._connections = max(2, config.connections)  # With a single one the package cannot repeat failed requests.
        self._patience = PATIENCE * float(config.read_timeout)

    def fetch(self, ref: ModelRef, url: str, path: Path, progress: Callable[[int], None]) -> None:
        """Fetch all of `url`, which must need no token, over `path`. Raise SourceUnavailable on any failure, whatever
        the cause: the package states it in texts that quote the URL, which is signed."""
        # The interpreter and packages of this process, and nothing from the working directory (-P).
        command = [sys.executable, "-P", str(_WORKER)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0) as worker:
            try:
                self._start(worker, url, path)
                self._follow(ref, worker, progress)
            finally:
                worker.kill()  # Does nothing to a process that has ended.
        if worker.returncode:
            raise unavailable(ref, "hf_transfer could not fetch it")

    def _start(self, worker: subprocess.Popen[bytes], url: str, path: Path) -> None:
        asked = {
            "parent": os.getpid(),
            "url": url,
            "filename": str(path),
            "max_files": self._connections,
            "chunk_size": CHUNK,
            "parallel_failures": min(3, self._connections - 1),
            "max_retries": RETRIES,
            "headers": {},
        }
        assert worker.stdin is not None
        try:
            with worker.stdin as stdin:
                stdin.write(json.dumps(asked).encode())
        except BrokenPipeError:
            pass  # It failed to start, as its exit code shows.

    def _follow(self, ref: ModelRef, worker: subprocess.Popen[bytes], progress: Callable[[int], None]) -> None:
        """Report the bytes that the worker counts, until it ends. Raise SourceUnavailable if it is silent for long."""
        assert worker.stdout is not None
        heard = select.poll()  # select() itself ends at descriptor 1023.
        heard.register(worker.stdout, select.POLLIN)
        rest = b""
        while True:
            if not heard.poll(self._patience * 1000):
                raise unavailable(ref, "it sends too slowly")
            data = os.read(worker.stdout.fileno(), 1 << 16)
            if not data:
                break
            *counts, rest = (rest + data).split(b"\n")
            if counts:
                progress(sum(map(int, counts)))
        worker.wait()
