"""Power loss: a scenario is recorded, and the store is started on everything that the disk may hold afterwards."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path

from tests.faults import recording as recorder
from tests.faults.audit import Audit, Promises
from tests.faults.points import Finding, Point, Tally
from tests.faults.power import Recording, State, content, states
from tests.faults.recording import Recorder
from tests.faults.roots import copy_root, remove_root
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.spread import spread
from tests.faults.strace import calls
from tests.faults.suite import Context, Suite
from tests.faults.sweep import Bench, lease, restarted, restarts, run, unpatched

RECORDED = ("publish", "park", "resume", "evict", "mend", "rebuild")


def replay(scenario: Scenario, context: Context, only: Callable[[State], bool] = lambda state: True) -> Tally:
    bench = context.bench
    recording = record(bench, scenario)
    found = context.some([state for state in states(recording) if only(state)], lambda state: len(state.said))
    tally = Tally("F2", f"power loss {scenario.name}", "power-loss states")
    work = functools.partial(_start_on, bench, scenario, recording)
    for number, (_, findings) in enumerate(zip(found, spread(found, work, context.workers), strict=True)):
        tally.add(Point(scenario.name, "power loss", number, "state"), findings)
    return tally


def record(bench: Bench, scenario: Scenario) -> Recording:
    """All that the scenario does to its root, from when its store is open."""
    before = bench.folder / f"{scenario.name}.before.{os.getpid()}"
    with bench.copy(scenario) as root, lease(root):

        def begin() -> None:
            remove_root(before)
            copy_root(root, before)

        ran = run(bench, scenario, root, recorder.TRACING, watched=recorder.WATCHED, begin=begin)
        if ran.code or ran.found:
            raise RuntimeError(f"{scenario.name} fails undisturbed: {ran}")
        following = Recorder(root, before)
        following.follow(calls(ran.log))
        following.compare()
        ran.log.unlink()
    return following.recording


def _start_on(bench: Bench, scenario: Scenario, recording: Recording, state: State) -> list[Finding]:
    root = bench.folder / f"run.{os.getpid()}"
    remove_root(root)
    build(recording, state, root)
    try:
        audit = Audit(root, scenario, Promises.of(scenario, state.said))
        again = restarts(audit, root) if bench.patch is unpatched else restarted(audit, root, bench.patch)
        return [*audit.raw(), *again]
    finally:
        remove_root(root)


def build(recording: Recording, state: State, root: Path) -> None:
    """What the disk holds, as a root."""
    contents, paths = dict(state.contents), {1: str(root)}
    root.mkdir()
    for (folder, name), inode in state.names:
        path = f"{paths[folder]}/{name}"
        begun = recording.inodes[inode]
        if begun.is_directory:
            os.mkdir(path, 0o700)
        elif inode in paths:
            os.link(paths[inode], path)
            continue
        elif inode in contents:
            data, mode = content(recording, inode, contents[inode])
            _write(Path(path), data, mode, begun.mtime_ns)
        else:
            _write(Path(path), begun.read(), begun.mode, begun.mtime_ns)
        paths[inode] = path
    for inode, path in paths.items():  # Last, and modes of directories as they are for those who may do everything.
        if recording.inodes[inode].is_directory:
            os.chmod(path, stat.S_IMODE(recording.inodes[inode].mode))


def _write(path: Path, data: bytes, mode: int, mtime_ns: int) -> None:
    path.write_bytes(data)
    os.chmod(path, stat.S_IMODE(mode))
    os.utime(path, ns=(mtime_ns, mtime_ns))


REPLAYS = [Suite("F2", f"power loss {name}", functools.partial(replay, SCENARIOS[name])) for name in RECORDED]
