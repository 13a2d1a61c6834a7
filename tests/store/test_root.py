"""Which directories are taken for a root; every refusal is one sentence with the path and what to do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cached.errors import StoreDegraded
from cached.store.layout import Layout
from cached.store.startup import preflight, root_lock
from cached.store.startup.root_lock import RootLock

NOBODY = 65534


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def take(path: Path) -> None:
    RootLock.take(Layout(path)).close()


def refusal(path: Path) -> str:
    """What the operator reads."""
    with pytest.raises(StoreDegraded) as caught:
        take(path)
    sentence = caught.value.message
    assert str(path) in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "Error" not in sentence and "Errno" not in sentence
    return sentence


def test_what_is_not_there_is_made_for_callers_to_enter(place: Path) -> None:
    take(place / "a/b")
    assert (place / "a/b").stat().st_mode & 0o777 == 0o755
    assert (place / "a/b/blobs").stat().st_mode & 0o777 == 0o700
    assert len(list((place / "a/b/blobs").iterdir())) == 256
    assert (place / "a/b/FORMAT").read_text() == f"{preflight.FORMAT}\n"
    take(place / "a/b")


def test_a_link_to_a_root_is_a_root(place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    take(place / "link")
    assert (place / "real/FORMAT").exists()


def test_a_new_disk_is_taken(place: Path) -> None:
    (place / "lost+found").mkdir()
    take(place)


def test_a_second_daemon_on_the_same_root_is_refused(place: Path) -> None:
    first = RootLock.take(Layout(place))
    assert "Another cached daemon is using" in refusal(place)
    first.close()
    take(place)


def test_a_file_system_where_flock_does_not_exclude_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_lock.fcntl, "flock", lambda fd, operation: None)  # As some network file systems do.
    assert "does not exclude" in refusal(place)


def make_a_file(path: Path) -> None:
    path.write_text("x")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def open_to_everybody(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_like_tmp(path: Path) -> None:
    path.mkdir()
    path.chmod(0o1777)


def fill_with_somebodys_files(path: Path) -> None:
    (path / "alice").mkdir(parents=True)


def fill_beside_our_names(path: Path) -> None:
    (path / "blobs").mkdir(parents=True)
    (path / ".bashrc").touch()


def write_a_newer_format(path: Path) -> None:
    take(path)
    (path / "FORMAT").write_text("99\n")


def garble_the_format(path: Path) -> None:
    take(path)
    (path / "FORMAT").write_bytes(b"\xff\x00\xfe" * 1000)


def empty_the_format(path: Path) -> None:
    take(path)
    (path / "FORMAT").write_bytes(b"")


def make_the_format_a_directory(path: Path) -> None:
    take(path)
    (path / "FORMAT").unlink()
    (path / "FORMAT").mkdir()


def make_a_folder_a_file(path: Path) -> None:
    path.mkdir()
    (path / "snapshots").touch()


def link_a_folder_to_nothing(path: Path) -> None:
    path.mkdir()
    (path / "blobs").symlink_to("nothing")


def put_a_folder_on_another_file_system(path: Path) -> None:
    path.mkdir()
    (path / "blobs").symlink_to("/proc/self/fd")  # Where nothing could be made, should it be taken for ours.


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (make_a_file, "is not a directory; move it away"),
        (link_to_nothing, "symbolic link to nothing"),
        (open_to_everybody, "`chmod o-w "),
        (open_like_tmp, "`chmod o-w "),
        (fill_with_somebodys_files, "it holds 'alice'); set `root` to an empty directory"),
        (fill_beside_our_names, "it holds '.bashrc')"),
        (write_a_newer_format, "has layout version 99, and this cached knows 2; use the version"),
        (garble_the_format, "which is no layout version; if"),
        (empty_the_format, "says '', which is no layout version"),
        (make_the_format_a_directory, "is not a regular file"),
        (make_a_folder_a_file, "snapshots is not a directory; move it away"),
        (link_a_folder_to_nothing, "blobs is a symbolic link to nothing; remove it"),
        (put_a_folder_on_another_file_system, "another file system"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_what_is_no_root_is_refused_and_left_as_it_is(spoil: Callable[[Path], None], said: str, place: Path) -> None:
    path = place / "r"
    spoil(path)
    before = listing(place)
    assert said in refusal(path)
    assert listing(place) == before


def listing(folder: Path) -> list[tuple[str, int, float]]:
    return sorted((str(p), p.lstat().st_mode, p.lstat().st_mtime) for p in folder.rglob("*"))


def test_a_root_of_another_user_is_refused_even_to_root(place: Path) -> None:
    with as_user(NOBODY):
        assert f"and cached runs as nobody (uid {NOBODY}): `chown -R {NOBODY} " in refusal(place)
    os.chown(place, NOBODY, NOBODY)
    assert f"belongs to nobody (uid {NOBODY}), and cached runs as root (uid 0)" in refusal(place)
    with as_user(NOBODY):
        take(place)


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o600, 0o000])
def test_a_root_that_cannot_be_read_and_written_is_refused(mode: int, place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    place.chmod(mode)
    with as_user(NOBODY):
        assert "may not read and write the root" in refusal(place)
    place.chmod(0o700)


def test_a_root_below_what_cannot_be_entered_is_refused(place: Path) -> None:
    (place / "r").mkdir()
    place.chmod(0o700)
    with as_user(NOBODY):
        assert "Permission denied" in refusal(place / "r")
        assert "Permission denied" in refusal(place / "new")


def test_a_read_only_file_system_is_refused(place: Path) -> None:
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", place], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("needs to mount")
    try:
        assert "read-only" in refusal(place).lower()
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_start_that_was_killed_before_its_format_was_there_is_begun_again(place: Path) -> None:
    (place / "FORMAT.4711").write_text("1")
    for name in ("blobs", "snapshots", "index.db"):
        (place / name).mkdir()
    take(place)
    assert (place / "FORMAT").read_text() == f"{preflight.FORMAT}\n"
