"""`python -m tests.soak.bare PLAN`: what the machine itself takes for an exchange over a socket while the soak goes on.

Somebody at the daemon's priority does nothing but answer, and is asked as often as the daemon is for hits. What a hit
takes beyond that is the daemon's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import time
from array import array

from tests.soak.plan import WORKING, Plan, become, begin
from tests.soak.working import PAUSE

NICE = -5  # The daemon's.


def answer(connection: socket.socket) -> None:
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    while asked := connection.recv(100):
        connection.sendall(asked)


def ask(plan: Plan, connection: socket.socket) -> dict[str, float]:
    took = array("d")
    while not plan.over:
        begun = time.perf_counter()
        connection.sendall(b"?")
        connection.recv(100)
        took.append(time.perf_counter() - begun)
        time.sleep(PAUSE)
    cuts = statistics.quantiles(took, n=1000) if len(took) > 1 else [0.0] * 999
    return {"p50": cuts[499], "p99": cuts[989], "p999": cuts[998]}


def main() -> None:
    plan = begin()
    asking, answering = socket.socketpair()
    if os.fork() == 0:
        asking.close()
        answer(answering)
        os._exit(0)
    answering.close()
    become(WORKING)
    print(json.dumps(ask(plan, asking)), flush=True)


if __name__ == "__main__":
    main()
