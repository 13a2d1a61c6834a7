"""A user's program (user_program.py), of one version or the other, as a process that a test tells what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.daemon_process import clean_environment

_PROGRAM = Path(__file__).with_name("user_program.py")


class User:
    """The test's end. What the program raises comes back as `{"error": class, "code": …, "message": …}`."""

    def __init__(self, socket: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(**environment),
        )
        self.package = Path(self.ask("where")["package"])

    def acquire(self, uri: str, **options: Any) -> dict[str, Any]:
        """Lease it, and keep the lease; what the lease says, and the phases that were reported."""
        return self.ask("acquire", uri, options)

    def release(self) -> None:
        """End every lease."""
        self.ask("release")

    def call(self, method: str, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.ask("call", method, verb, body)

    def ask(self, *command: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(command), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
