"""A program of the soak: a process of its own, which ends with the block, as do the children that it has by then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.daemon_process import clean_environment
from tests.soak.plan import Plan
from tests.soak.site import Site

_TREE = Path(__file__).parents[2]


class Program:
    """It has started, and imported everything, and waits for `begin`."""

    def __init__(
        self, stack: contextlib.ExitStack, here: Site, environment: Mapping[str, str], name: str, *arguments: str
    ) -> None:
        self._plan = here.folder / f"plan-{'-'.join((name, *arguments))}.json"
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.soak.{name}", str(self._plan), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(**environment),
            cwd=_TREE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        stack.callback(self._end)
        assert self._process.stdout and self._process.stdout.readline() == "started\n", f"{name} has started"

    def begin(self, plan: Plan) -> None:
        plan.write(self._plan)
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """What it says at its end; None when it fails, or does not end in time."""
        try:
            said, _ = self._process.communicate(timeout=max(0.1, seconds))
            answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError):
            return None
        return answer

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # A session of its own, so nobody else is in its group.
        self._process.communicate()
