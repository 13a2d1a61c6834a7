"""Files as engines leave them in /dev/shm, mapped and not."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.demo.shared_memory import swept


def make(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(bytes(mmap.PAGESIZE))
    return path


@pytest.mark.parametrize("name", ["psm_00a851b7", "sem.mp-05547pk1", "4711-tp:0-[0-1]-cpushm_0"])
def test_what_nobody_uses_any_more_is_removed(tmp_path: Path, name: str) -> None:
    with swept(folder=tmp_path):
        path = make(tmp_path, name)
    assert not path.exists()


def test_what_was_there_before_or_is_of_others_stays(tmp_path: Path) -> None:
    before = make(tmp_path, "psm_00a851b7")
    with swept(folder=tmp_path):
        other = make(tmp_path, "somebody.else")
    assert before.exists() and other.exists()


def test_what_a_process_has_mapped_stays(tmp_path: Path) -> None:
    with swept(0, tmp_path):
        path = make(tmp_path, "psm_00a851b7")
        descriptor = os.open(path, os.O_RDWR)
        used = mmap.mmap(descriptor, 0)
        os.close(descriptor)
    assert path.exists()
    used.close()


def test_who_is_still_ending_is_waited_for(tmp_path: Path) -> None:
    with swept(folder=tmp_path):
        path = make(tmp_path, "psm_00a851b7")
        code = f"import mmap; file = open({str(path)!r}, 'r+b'); used = mmap.mmap(file.fileno(), 0); print(); input()"
        ending = subprocess.Popen([sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert ending.stdin and ending.stdout and ending.stdout.readline()
        threading.Timer(0.3, ending.stdin.close).start()
    assert not path.exists()
    assert ending.wait(10) is not None
