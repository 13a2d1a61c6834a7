"""What the users of a soak know: where the daemon is, which models there are, and for how long. Told in one JSON file.

Nothing in it opens a model: tokens and keys come by each process's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

GROUP = 4900  # Of the socket, and of everybody who may use it.
WORKING = 4500
HOSTILE = (4601, 4602, 4603)
CROWD = 10_000  # And up.
CANARY = b"CANARY-of-the-working-user"  # In every file of its closed models.
GUESSED = "secret"  # A closed model's name that hostile users know, and ask for.
UNSAID = "name-that-no-stranger-says"  # One that they do not, and should never hear.
BASE = (
    *(f"hf://closed/{GUESSED}", f"s3://private/{GUESSED}", "s3://models/own"),
    *(f"hf://closed/{UNSAID}", f"s3://private/{UNSAID}"),
    *("hf://org/open", "hf://org/shared"),
)
NEW = ("hf://closed/new-{}", "s3://models/new-{}", "hf://org/new-{}")
MODEL_BYTES = 30_000  # So that the new models of an hour are well within a share of the store.


@dataclass(frozen=True)
class Plan:
    socket: str
    root: str
    seed: int
    seconds: float
    until: float  # Seconds since the epoch.
    every: float  # Seconds from one new model of the working user to the next.
    only: Sequence[str] = ()  # Names of the tricks that are tried; all when there are none.

    @property
    def new_models(self) -> list[str]:
        return [NEW[number % len(NEW)].format(number) for number in range(int(self.seconds / self.every) + 1)]

    def tries(self, trick: str) -> bool:
        return not self.only or trick in self.only

    @property
    def over(self) -> bool:
        return time.time() >= self.until

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))
        path.chmod(0o644)

    @classmethod
    def read(cls, path: str) -> Plan:
        return cls(**json.loads(Path(path).read_text()))


def begin() -> Plan:
    """The plan of a program of the soak (its first argument), once all of them have started and it has begun."""
    print("started", flush=True)
    sys.stdin.readline()
    return Plan.read(sys.argv[1])


def content(uri: str, tenant: str = "work") -> bytes:
    """The weights of a model; those of closed ones hold the canary, those of another tenant say so."""
    closed = uri.startswith(("hf://closed/", "s3://")) and tenant == "work"
    line = b"%s %s %s\n" % (CANARY if closed else b"open", tenant.encode(), uri.encode())
    return (line * (MODEL_BYTES // len(line) + 1))[:MODEL_BYTES]


def become(uid: int) -> None:
    """This process is that user's from now on, in the group of the socket. What it imports must have been imported."""
    os.setgroups([GROUP])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def pauses(plan: Plan, seconds: float) -> Iterator[int]:
    """0, 1, 2 … every so many seconds until the soak is over."""
    begun, number = time.time(), 0
    while not plan.over:
        yield number
        number += 1
        time.sleep(max(0.0, begun + number * seconds - time.time()))
