"""One download by hf_transfer, as a program: what to do comes as JSON on stdin, counts of bytes go out on stdout.

The URL is signed, so it must not be an argument, which everybody on the node could read.
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
    # Nobody would be left to stop it, and the file may get its final name while it still writes.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)  # Nobody's core is to hold the link; the limit came with the fork.
    asked = json.load(sys.stdin)
    if os.getppid() != asked.pop("parent"):
        return 1
    hf_transfer.download(**asked, callback=lambda count: os.write(1, b"%d\n" % count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
