"""What a disk may hold when its power has gone: the model of it, and a part of what `make faults` starts on."""

from __future__ import annotations

import stat

import pytest

from tests.faults.asked import ask
from tests.faults.power import Data, Inode, Mode, Names, Recording, Resize, Said, State, Step, Sync, content, states
from tests.faults.replay import RECORDED

FOLDER, FILE, SUB = 1, 2, 3
EVERY = 50


def recording(*steps: Step, names: dict[tuple[int, str], int] | None = None, began: bytes = b"old!") -> Recording:
    """A root, a file that may have a name in it, and a directory that has one."""
    inodes = {FOLDER: Inode(stat.S_IFDIR | 0o755), FILE: Inode(stat.S_IFREG | 0o600, 0, lambda: began)}
    inodes[SUB] = Inode(stat.S_IFDIR | 0o755)
    return Recording(inodes, {(FOLDER, "sub"): SUB} | (names or {}), list(steps))


def found(taken: Recording, said: int = 0) -> set[tuple[tuple[str, bytes], ...]]:
    """Every state in which so much had been said, as names and bytes."""
    return {_seen(taken, state) for state in states(taken) if len(state.said) >= said}


def _seen(taken: Recording, state: State) -> tuple[tuple[str, bytes], ...]:
    contents = dict(state.contents)
    seen = []
    for (folder, name), inode in state.names:
        if not taken.inodes[inode].is_directory:
            data = content(taken, inode, contents[inode])[0] if inode in contents else taken.inodes[inode].read()
            seen.append((f"{'' if folder == FOLDER else 'sub/'}{name}", data))
    return tuple(seen)


THERE = {(FOLDER, "f"): FILE}
MADE = Names((((FOLDER, "f"), FILE),))
MOVED = Names((((FOLDER, "f"), 0), ((SUB, "g"), FILE)))
GONE = Names((((FOLDER, "f"), 0),))
DONE = Said(("ready", ""))


def test_unsynced_bytes_may_be_there_or_not_or_zeros_or_torn() -> None:
    taken = recording(Data(FILE, 4, b"new!"), names=THERE)
    assert found(taken) == {(("f", each),) for each in (b"old!", b"old!new!", b"old!\0\0\0\0", b"old!ne")}


def test_synced_bytes_are_there() -> None:
    taken = recording(Data(FILE, 4, b"new!"), Sync(FILE), DONE, names=THERE)
    assert found(taken, said=1) == {(("f", b"old!new!"),)}


def test_a_sync_of_a_file_does_not_keep_its_name() -> None:
    taken = recording(MADE, Data(FILE, 0, b"new!"), Sync(FILE), DONE)
    assert found(taken, said=1) == {(), (("f", b"new!"),)}


def test_a_sync_of_a_directory_keeps_names_and_not_bytes() -> None:
    taken = recording(MADE, Data(FILE, 0, b"new!"), Sync(FOLDER), DONE, began=b"")
    assert {seen for ((_, seen),) in found(taken, said=1)} == {b"", b"new!", b"\0\0\0\0", b"ne"}


def test_a_rename_is_done_or_is_not() -> None:
    taken = recording(MOVED, DONE, names=THERE)
    assert found(taken, said=1) == {(("f", b"old!"),), (("sub/g", b"old!"),)}


@pytest.mark.parametrize("synced", [FOLDER, SUB])
def test_a_sync_of_either_directory_keeps_a_rename(synced: int) -> None:
    taken = recording(MOVED, Sync(synced), DONE, names=THERE)
    assert found(taken, said=1) == {(("sub/g", b"old!"),)}


def test_a_later_name_may_be_kept_and_an_earlier_one_lost() -> None:
    other = Names((((SUB, "h"), FILE),))
    taken = recording(MADE, other, DONE)
    assert (("sub/h", b"old!"),) in found(taken, said=1)


def test_what_was_unlinked_may_still_be_there_until_its_directory_is_synced() -> None:
    assert found(recording(GONE, DONE, names=THERE), said=1) == {(), (("f", b"old!"),)}
    assert found(recording(GONE, Sync(FOLDER), DONE, names=THERE), said=1) == {()}


def test_a_truncation_that_was_not_synced_may_not_have_been() -> None:
    assert found(recording(Resize(FILE, 0), DONE, names=THERE), said=1) == {(("f", b""),), (("f", b"old!"),)}


def test_a_mode_goes_with_the_bytes() -> None:
    taken = recording(Mode(FILE, 0o444), names=THERE)
    modes = {content(taken, FILE, kept)[1] & 0o777 for state in states(taken) for _, kept in state.contents}
    assert modes == {0o600, 0o444}


@pytest.mark.parametrize("scenario", RECORDED)
def test_whatever_the_disk_kept_the_store_starts_and_the_invariants_hold(scenario: str) -> None:
    answer = ask(f"power loss {scenario}", every=EVERY)
    assert answer.points >= 2
    assert answer.violations == []
