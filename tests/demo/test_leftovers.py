"""Nothing that a run has started may outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.demo import leftovers


def test_a_process_that_detached_itself_is_found_by_its_mark_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 0.5)
    mark = uuid.uuid4().hex
    detached = "import os, time; os.fork() and os._exit(0); os.setsid(); print('ready', flush=True); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", detached], env={**os.environ, leftovers.MARK: mark}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.wait()
    (pid,) = leftovers.marked(mark)
    (command,) = leftovers.end(mark)
    assert "os.setsid()" in command
    assert leftovers.marked(mark) == []
    assert pid != process.pid
    process.stdout.close()


def test_a_folder_with_read_only_directories_and_links_is_removed_and_what_links_name_is_not(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "store"
    (folder / "snapshots" / "one").mkdir(parents=True)
    (folder / "snapshots" / "one" / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "snapshots" / "one").chmod(0o555)
    leftovers.remove_tree(folder)
    assert list(tmp_path.iterdir()) == [outside]
