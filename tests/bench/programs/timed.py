"""Run one command and print what it cost as one JSON object. For a bare interpreter: `python -I -S timed.py COMMAND…`.

The kernel counts what the forking process had resident as the peak of its child; so a small process has to fork.
"""

import json
import os
import sys
import time

_quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_before = time.monotonic()
_pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=_quiet)
_, _status, _usage = os.wait4(_pid, 0)
_ended = time.monotonic()
_cost = {
    "seconds": _ended - _before,
    "cpu": _usage.ru_utime + _usage.ru_stime,
    "peak": _usage.ru_maxrss * 1024,
    "ended": _ended,
}
print(json.dumps(_cost))
sys.exit(min(255, abs(os.waitstatus_to_exitcode(_status))))
