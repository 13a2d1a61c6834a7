"""The Hub stub in a process of its own, its large files elsewhere: `python -m tests.bench.hub_origin PORT CDN FOLDER`.

FOLDER holds the small files under their names, and `large.json`: size and sha256 of the large ones by name. The content
network at CDN has those under their sha256.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from tests.servers import HubStub
from tests.servers.process import ServerProcess

REPO = "bench/model"
LARGE = "large.json"


class _Large:
    """Stands for bytes that are not here: it has their length and their hashes."""

    def __init__(self, size: int, sha256: str) -> None:
        self.size, self.sha256 = size, sha256

    def __len__(self) -> int:
        return self.size


class _Stub(HubStub):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._ports = [port, 0]

    def _hashes(self, data: Any) -> tuple[str, str]:
        if isinstance(data, _Large):
            return data.sha256, hashlib.sha1(data.sha256.encode()).hexdigest()
        return super()._hashes(data)


class HubOrigin(ServerProcess):
    def __init__(self, folder: Path, cdn: str) -> None:
        super().__init__()
        self._folder, self._cdn = folder, cdn

    def command(self) -> list[str]:
        return [sys.executable, "-m", __spec__.name, str(self.port), self._cdn, str(self._folder)]


def _main(port: str, cdn: str, folder: str) -> None:
    large = json.loads(Path(folder, LARGE).read_text())
    files: dict[str, Any] = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != LARGE}
    files |= {name: _Large(**known) for name, known in large.items()}
    with _Stub(int(port)) as hub:
        hub.cdn = cdn
        hub.add_commit(REPO, files)
        signal.pause()


if __name__ == "__main__":
    _main(*sys.argv[1:])
