"""The pressure case for a moment, and that it sees what it is there for."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.pressure import Pressure

SECONDS = 15.0


def test_whoever_is_killed_nothing_is_lost_and_the_limit_is_kept(tmp_path: Path) -> None:
    pressure = Pressure(tmp_path, pause=0.5)
    pressure.run(SECONDS)
    assert pressure.violations == []
    done = {"fetched", "hit", "evictions", "kill replica", "kill daemon", "restart daemon", "removed by gc"}
    assert done <= {what for what, count in pressure.counts.items() if count}


def test_a_daemon_that_evicts_what_is_leased_is_seen(tmp_path: Path) -> None:
    """The same, with a daemon whose locks exclude nobody."""
    (tmp_path / "sitecustomize.py").write_text(
        "import fcntl\n"
        "real = fcntl.flock\n"
        "def flock(fd, how):\n"
        "    try: real(fd, how)\n"
        "    except BlockingIOError:\n"
        "        import os\n"
        "        if '.locks/' not in os.readlink(f'/proc/self/fd/{fd}'): raise\n"
        "fcntl.flock = flock\n"
    )
    pressure = Pressure(tmp_path)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    pressure.daemon.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    pressure.run(SECONDS)
    assert any(violation.startswith("I4") for violation in pressure.violations)
