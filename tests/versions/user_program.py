"""`python user_program.py SOCKET`: does what the lines of its standard input say, with the `cached` of its environment.

Kept to what every release has.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import cached


class Program:
    def __init__(self, socket: str) -> None:
        self._client = cached.Client(socket)
        self._leases: list[cached.Lease] = []

    def where(self) -> dict[str, Any]:
        return {"package": cached.__file__}

    def acquire(self, uri: str, options: dict[str, Any]) -> dict[str, Any]:
        phases: list[str] = []
        lease = self._client.acquire(uri, progress=lambda progress: phases.append(progress.phase), **options)
        self._leases.append(lease)
        names = ("path", "lock_file", "digest", "revision", "source", "size", "hit", "stale")
        return {**{name: getattr(lease, name) for name in names}, "phases": phases}

    def release(self) -> dict[str, Any]:
        while self._leases:
            self._leases.pop().release()
        return {}

    def damaged(self) -> dict[str, Any]:
        return {"damaged": [self._client.damaged(lease) for lease in self._leases]}

    def call(self, method: str, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
        return self._client.call(method, verb, body)


def main() -> None:
    program = Program(sys.argv[1])
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = getattr(program, name)(*arguments)
        except Exception as error:
            shown = {"code": getattr(error, "code", ""), "message": str(error)}
            answer = {"error": type(error).__name__, **shown, "retryable": getattr(error, "retryable", None)}
        print(json.dumps(answer), flush=True)


main()
