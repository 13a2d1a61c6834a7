"""`python -m tests.soak.hostile PLAN UID`: a user of the socket's group who wishes the others ill, until it is over.

At its end it says in one line of JSON what it tried, and what it should not have got.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.soak.plan import CANARY, UNSAID, Plan, become, begin
from tests.soak.tricks import guess_of_new, tricks
from tests.soak.wire import ask, last

AT_ONCE = 4
_SOURCES = ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Hostile:
    """One of its threads. `leaks` are sentences about what it got and should not have."""

    def __init__(self, plan: Plan, seed: str) -> None:
        self.plan = plan
        self.random = random.Random(seed)
        self.environment = {name: os.environ[name] for name in _SOURCES if name in os.environ}
        self.keys = {name: value for name, value in self.environment.items() if name.startswith("AWS_")}
        self.held: list[socket.socket] = []
        self.leaks: list[str] = []
        self.tried: Counter[str] = Counter()
        self._digests: deque[str] = deque(maxlen=20)

    def run(self) -> None:
        known = [trick for trick in tricks() if self.plan.tries(trick.__name__)]
        while known and not self.plan.over:
            trick = self.random.choice(known)
            self.tried[trick.__name__] += 1
            with contextlib.suppress(OSError):
                trick(self)

    def take(self, uri: str, credentials: Mapping[str, str], **options: Any) -> None:
        """Acquire it, and read whatever comes of that."""
        answer = ask(self.plan.socket, "/v1/acquire", {"uri": uri, "credentials": credentials, **options}, seconds=10)
        self.search(answer, f"the answer to {uri!r}")
        ready = last(answer)
        if ready.get("event") == "ready":
            self._digests.append(str(ready.get("digest", ""))[-64:])
            for path in _files(str(ready.get("path", ""))):
                self.search(path.read_bytes(), f"{path}, handed out for {uri!r}")

    def search(self, data: bytes, where: str) -> None:
        if CANARY in data:
            self._leak(f"bytes of the working user: in {where}")
        if UNSAID.encode() in data:
            self._leak(f"a name of the working user: in {where}")

    def _leak(self, what: str) -> None:
        if len(self.leaks) < 20:
            self.leaks.append(what)

    def new_model(self) -> str:
        """A name that the working user will ask for soon, or has asked for: they are easily guessed."""
        begun = self.plan.until - self.plan.seconds
        return guess_of_new(int((time.time() - begun) / self.plan.every) + self.random.randint(-1, 2))

    def digests(self) -> list[str]:
        answer = last(ask(self.plan.socket, "/v1/snapshots", seconds=5))
        found = [str(each.get("digest", ""))[-64:] for each in answer.get("snapshots", [])]
        return [*found, *self._digests]

    def folders(self) -> list[str]:
        root = Path(self.plan.root)
        names = ["", "blobs", "ingest", "trash", "quarantine", "snapshots"]
        names += [f"snapshots/{digest}{end}" for digest in self.digests() for end in ("", ".locks")]
        return [str(root / name) for name in names] + [str(Path(self.plan.socket).parent)]

    def openable(self) -> list[str]:
        """Every file of the root that this user finds, and can open."""
        root = Path(self.plan.root)
        found = [str(root / name) for name in ("FORMAT", "FORMAT.next", "index.db", "index.db-wal", "index.db-shm")]
        for digest in self.digests():
            found += [f"{root}/snapshots/{digest}.json", f"{root}/snapshots/{digest}.locks/{os.getuid()}"]
            found += [f"{root}/snapshots/{digest}", *map(str, _files(f"{root}/snapshots/{digest}"))]
        for folder in self.folders():
            with contextlib.suppress(OSError):
                found += [f"{folder}/{name}" for name in os.listdir(folder)]
        return [path for path in dict.fromkeys(found) if os.access(path, os.R_OK)]


def _files(folder: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in Path(folder).rglob("*") if path.is_file()] if folder else []
    return []


def main() -> None:
    plan, uid = begin(), int(sys.argv[2])
    become(uid)
    users = [Hostile(plan, f"{plan.seed} {uid} {number}") for number in range(AT_ONCE)]
    threads = [threading.Thread(target=user.run, daemon=True) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, plan.until + 15 - time.time()))
    tried = sum((user.tried for user in users), Counter[str]())
    print(json.dumps({"tricks": tried, "leaks": [leak for user in users for leak in user.leaks]}), flush=True)


if __name__ == "__main__":
    main()
