"""A disk that may lose its power: what was written, what was made durable, and what may be found afterwards.

The rules are POSIX's, which are weaker than those of any journal: fsync of a file makes its bytes durable and not its
name; fsync of a directory makes the names in it durable, and a rename with either of its two. Everything else may be
there or not, each for itself, but for one thing that every file system for Linux keeps: a rename is done or is not.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Name = tuple[int, str]  # A directory's number, and a name in it.


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes in a file."""

    inode: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resize:
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Mode:
    inode: int
    mode: int


@dataclass(frozen=True, slots=True)
class Names:
    """Names that come and go together, all or none; a number of 0 says that the name goes."""

    changes: tuple[tuple[Name, int], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    inode: int


@dataclass(frozen=True, slots=True)
class Said:
    """A caller was told something."""

    message: tuple[str, str]


Content = Data | Resize | Mode
Step = Content | Names | Sync | Said


@dataclass(frozen=True, slots=True)
class Inode:
    """As it was at the beginning. `mode` is st_mode; the bytes are only asked for when somebody wants them."""

    mode: int
    mtime_ns: int = 0
    read: Callable[[], bytes] = field(default=bytes, repr=False, compare=False)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass
class Recording:
    """How a disk began, and what was done to it. Inode 1 is the root."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    names: dict[Name, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bytes:
    """What a file holds: these steps over how it began; then zeros up to `size`, or the last step only by half."""

    steps: tuple[int, ...]
    size: int | None = None
    torn: bool = False


@dataclass(frozen=True)
class State:
    """What may be found: names, and what is under each; and what callers had been told by then."""

    names: tuple[tuple[Name, int], ...]
    contents: tuple[tuple[int, Bytes], ...]
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Loss:
    """Which of the unsynced steps are kept: names by their step; files all, none (`zeros`: but their size) or torn."""

    names: frozenset[int]
    files: frozenset[int]
    zeros: bool = False
    torn: int | None = None


def states(recording: Recording) -> list[State]:
    """Every state that is distinct by its names, steps and promises, over every moment."""
    found: dict[State, None] = {}
    for moment in range(len(recording.steps) + 1):
        for state in _at(recording, moment):
            found[state] = None
    return list(found)


def _at(recording: Recording, moment: int) -> Iterator[State]:
    steps = recording.steps[:moment]
    names = _unsynced_names(steps)
    files = _unsynced_files(steps)
    for loss in _tails(recording.steps, moment, names, files) or _losses(names, files):
        yield _state(recording, steps, set(names), files, loss)


def _tails(steps: list[Step], moment: int, names: list[int], files: dict[int, list[int]]) -> list[_Loss]:
    """While files are being written to: all that was done so far, and the same with the last write torn.

    Each name that may be lost now may be lost later on as well; and the bytes of each file, before another is begun.
    """
    before, after = (steps[moment - 1], steps[moment]) if 0 < moment < len(steps) else (None, None)
    if not isinstance(before, Content) or not isinstance(after, Content):
        return []
    every, all_files = frozenset(names), frozenset(files)
    found = [_Loss(every, all_files), _Loss(every, all_files, torn=before.inode)]
    if before.inode != after.inode:
        found += [_Loss(every, all_files - {file}, zeros=True) for file in files]
    return found


def _losses(names: list[int], files: dict[int, list[int]]) -> Iterator[_Loss]:
    """All names, none, all but one, only one, the first so many; bytes that are there, are not, or are zeros."""
    every, none, all_files = frozenset(names), frozenset[int](), frozenset(files)
    for some in (every, none, *(every - {name} for name in names)):
        yield _Loss(some, all_files)
        yield _Loss(some, none, zeros=True)
    for some in (*(frozenset({name}) for name in names), *(frozenset(names[:count]) for count in range(2, len(names)))):
        yield _Loss(some, all_files)
    yield _Loss(every, none)
    yield _Loss(none, none)
    for file in files:
        yield _Loss(every, all_files, torn=file)
        yield _Loss(every, all_files - {file})
        yield _Loss(every, all_files - {file}, zeros=True)
        yield _Loss(every, frozenset({file}))


def _unsynced_names(steps: list[Step]) -> list[int]:
    synced: set[int] = set()
    found = []
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if isinstance(step, Sync):
            synced.add(step.inode)
        elif isinstance(step, Names) and not any(folder in synced for (folder, _), _ in step.changes):
            found.append(index)
    return found[::-1]


def _unsynced_files(steps: list[Step]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        if isinstance(step, Sync):
            found.pop(step.inode, None)
        elif isinstance(step, Content):
            found.setdefault(step.inode, []).append(index)
    return found


def _state(
    recording: Recording, steps: list[Step], unsynced: set[int], files: dict[int, list[int]], loss: _Loss
) -> State:
    names = dict(recording.names)
    contents: dict[int, list[int]] = {}
    said: list[tuple[str, str]] = []
    for index, step in enumerate(steps):
        if isinstance(step, Names) and (index not in unsynced or index in loss.names):
            _apply(names, step)
        elif isinstance(step, Content):
            contents.setdefault(step.inode, []).append(index)
        elif isinstance(step, Said):
            said.append(step.message)
    reached = _reached(names)
    held = {inode for _, inode in reached}
    kept = tuple((i, _bytes(steps, i, contents[i], files.get(i, []), loss)) for i in sorted(contents) if i in held)
    return State(tuple(reached), kept, tuple(said))


def _apply(names: dict[Name, int], step: Names) -> None:
    for name, inode in step.changes:
        if inode:
            names[name] = inode
        else:
            names.pop(name, None)


def _reached(names: dict[Name, int]) -> list[tuple[Name, int]]:
    """What can be reached from the root, a directory before what is in it."""
    inside: dict[int, list[tuple[Name, int]]] = {}
    for name, inode in sorted(names.items()):
        inside.setdefault(name[0], []).append((name, inode))
    found: list[tuple[Name, int]] = []
    folders = [1]
    while folders:
        for name, inode in inside.get(folders.pop(), []):
            found.append((name, inode))
            folders.append(inode)
    return found


def _bytes(steps: list[Step], inode: int, every: list[int], unsynced: list[int], loss: _Loss) -> Bytes:
    if inode in loss.files:
        return Bytes(tuple(every), torn=loss.torn == inode and isinstance(steps[every[-1]], Data))
    durable = tuple(index for index in every if index not in set(unsynced))
    return Bytes(durable, size=_size(steps, every) if loss.zeros and unsynced else None)


def _size(steps: list[Step], every: list[int]) -> int:
    """At least what these steps make of a file; one that began longer is not made shorter by zeros."""
    size = 0
    for index in every:
        step = steps[index]
        if isinstance(step, Resize):
            size = step.size
        elif isinstance(step, Data):
            size = max(size, step.offset + len(step.data))
    return size


def content(recording: Recording, inode: int, kept: Bytes) -> tuple[bytes, int]:
    """The bytes and the mode that a file of this state has."""
    begun = recording.inodes[inode]
    data, mode = bytearray(begun.read()), begun.mode
    for index in kept.steps:
        step = recording.steps[index]
        if isinstance(step, Data):
            half = len(step.data) // 2 if kept.torn and index == kept.steps[-1] else len(step.data)
            if len(data) < step.offset:
                data.extend(bytes(step.offset - len(data)))
            data[step.offset : step.offset + half] = step.data[:half]
        elif isinstance(step, Resize):
            del data[step.size :]
            data.extend(bytes(step.size - len(data)))
        elif isinstance(step, Mode):
            mode = stat.S_IFMT(mode) | step.mode
    if kept.size is not None and kept.size > len(data):
        data.extend(bytes(kept.size - len(data)))
    return bytes(data), mode
