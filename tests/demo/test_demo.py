"""`make demo`, whole and interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo import leftovers

pytestmark = [pytest.mark.serve, pytest.mark.timeout(600)]
VARIABLE = "STARTED_BY_TEST"


class Demo:
    """The demo as a process, and what it has left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.output = (folder.parent / f"{folder.name}.log").open("w+b")
        environment = {**os.environ, "TMPDIR": str(folder), VARIABLE: self.mark}
        command = [sys.executable, "-m", "tests.demo"]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=self.output, stderr=self.output, start_new_session=True
        )

    def text(self) -> str:
        return Path(self.output.name).read_text(errors="replace")

    def left(self) -> tuple[list[int], list[str]]:
        """Processes, and files of its own in the temporary folder."""
        names = [path.name for path in self.folder.iterdir() if path.name.startswith(("cached-", "rclone-", "ray"))]
        return leftovers.marked(self.mark, VARIABLE), names


@pytest.fixture
def demo() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:
        running = Demo(Path(folder))
        try:
            yield running
        finally:
            if running.process.poll() is None:
                running.process.terminate()
                running.process.wait(60)
            running.output.close()
            os.unlink(running.output.name)


def test_the_second_deploy_fetches_nothing_and_nothing_is_left_running(demo: Demo) -> None:
    assert demo.process.wait(580) == 0, demo.text()
    table = [line.split("│")[1:-1] for line in demo.text().splitlines() if re.match(r"│ [12] \(", line)]
    origin = [int(row[1].replace(",", "")) for row in table]
    assert origin[0] > 100_000
    assert origin[1:] == [0]
    assert demo.left() == ([], [])


def test_ctrl_c_in_the_middle_of_a_deploy_leaves_nothing_running(demo: Demo) -> None:
    deadline = time.monotonic() + 120
    while not leftovers.marked(demo.mark, VARIABLE) or "Deploy 1" not in demo.text():
        assert demo.process.poll() is None and time.monotonic() < deadline, demo.text()
        time.sleep(0.1)  # Polling a condition, with a deadline.
    os.killpg(demo.process.pid, signal.SIGINT)  # As a terminal does: to the whole foreground group.
    assert demo.process.wait(90) == 1, demo.text()
    assert "Interrupted." in demo.text()
    assert demo.left() == ([], [])
