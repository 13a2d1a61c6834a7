"""The memory that this process could still use: the machine's, within the bounds of its cgroups (v1 or v2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def available(root: Path = ROOT) -> int:
    """Return the available bytes, including page cache that can be reclaimed; 0 if the kernel does not tell."""
    bounds = [left for group, names in _groups(root) if (left := _left(group, *names)) is not None]
    return max(0, min([_machine(root), *bounds]))


def _machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, str]]]]:
    """Yield this process's cgroups that may bound memory, from the innermost out to the mount's top.

    In a container without a cgroup namespace the path is the host's, of which only the top is mounted.
    """
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops, names = [mounts, mounts / "unified"], _V2
        elif "memory" in controllers.split(","):
            tops, names = [mounts / "memory"], _V1
        else:
            continue
        inner = Path(path.lstrip("/"))
        for top in tops:
            for group in (inner, *inner.parents):
                yield top / group, names


def _left(group: Path, limit: str, usage: str, cache: tuple[str, str]) -> int | None:
    """Return the bytes that a cgroup has left; None if it bounds nothing."""
    try:
        bound = int((group / limit).read_text())  # "max" is no number.
        used = int((group / usage).read_text())
        stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return bound - used + sum(int(stat.get(name, 0)) for name in cache)
