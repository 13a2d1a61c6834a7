"""Check one file on one core as a scrub does, and say what that took: `check.py PATH SHA256 PIECES`."""

from __future__ import annotations

import json
import os
import sys
import time

from cached.model import Digest
from cached.store.blobs.verify import check


def main(path: str, sha256: str, pieces: str) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    size = os.path.getsize(path)
    began, cpu = time.monotonic(), time.process_time()
    found = check(path, Digest(sha256), size, bytes.fromhex(pieces), deep=False)
    took = {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    if found.problem is not None:
        sys.exit(found.problem)
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
