"""One download by hf_transfer, as a program: the job is read as JSON from stdin, counts of bytes are written to stdout.

The URL is signed, so it must not be an argument, which every user of the node could read.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

import hf_transfer

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4


def main() -> int:
    # Without the parent nothing would stop it, and the file may get its final name while it still writes.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)  # No core may hold the link; the limit was inherited.
    asked = json.load(sys.stdin)
    if os.getppid() != asked.pop("parent"):
        return 1
    hf_transfer.download(**asked, callback=lambda count: os.write(1, b"%d\n" % count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
