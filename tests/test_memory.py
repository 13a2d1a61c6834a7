"""How much memory there is to use, as the kernel says it in its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cached.prefetch.memory import available

GIB = 1 << 30


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A machine with 8 GiB available, where nothing is bounded."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable:  {8 << 20} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def bound(root: Path, group: str, limit: str, usage: int, cache: int) -> None:
    """With the names of the version whose mount it is below."""
    old = group.startswith("sys/fs/cgroup/memory")
    write(root, f"{group}/{'memory.limit_in_bytes' if old else 'memory.max'}", f"{limit}\n")
    write(root, f"{group}/{'memory.usage_in_bytes' if old else 'memory.current'}", f"{usage}\n")
    name = "total_inactive_file" if old else "inactive_file"
    write(root, f"{group}/memory.stat", f"anon 1\n{name} {cache}\n")


def test_without_a_bound_it_is_the_machines(system: Path) -> None:
    assert available(system) == 8 * GIB


@pytest.mark.parametrize(
    ("line", "group"),
    [
        ("0::/pod/replica", "sys/fs/cgroup/pod/replica"),
        ("0::/pod/replica", "sys/fs/cgroup/pod"),
        ("0::/", "sys/fs/cgroup"),
        ("0::/", "sys/fs/cgroup/unified"),
        ("4:memory:/pod/replica", "sys/fs/cgroup/memory/pod/replica"),
        ("4:cpu,memory:/not/mounted/here", "sys/fs/cgroup/memory"),
    ],
)
def test_a_cgroup_on_the_way_bounds_it_and_its_page_cache_can_go(system: Path, line: str, group: str) -> None:
    write(system, "proc/self/cgroup", f"1:cpu:/\n{line}\n")
    bound(system, group, str(4 * GIB), 3 * GIB, GIB)
    assert available(system) == 2 * GIB


def test_a_bound_above_what_the_machine_has_and_none_at_all_leave_the_machines(system: Path) -> None:
    write(system, "proc/self/cgroup", "0::/pod\n")
    bound(system, "sys/fs/cgroup/pod", "max", GIB, 0)
    bound(system, "sys/fs/cgroup", str(1 << 62), GIB, 0)
    assert available(system) == 8 * GIB


def test_a_cgroup_beyond_its_bound_has_nothing_left(system: Path) -> None:
    write(system, "proc/self/cgroup", "0::/pod\n")
    bound(system, "sys/fs/cgroup/pod", str(GIB), 2 * GIB, 0)
    assert available(system) == 0


def test_a_kernel_that_does_not_say_has_none(tmp_path: Path) -> None:
    assert available(tmp_path) == 0


def test_this_machine_says() -> None:
    assert 0 < available() < 1 << 50
