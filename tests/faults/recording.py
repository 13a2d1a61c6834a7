"""What strace saw of a scenario, as steps of a disk."""

from __future__ import annotations

import os
import pickle
import re
import stat
from functools import partial
from pathlib import Path

from tests.faults import strace
from tests.faults.power import Bytes, Content, Data, Inode, Mode, Name, Names, Recording, Resize, Said, Sync, content
from tests.faults.strace import Call

# Whole data, everything in hexadecimal.
TRACING = ("-xx", "-s", str(64 << 20))
WATCHED = (*strace.MAKE, *strace.MOVE, *strace.DROP, *strace.MODE, *strace.WRITE, *strace.SYNC, "close", "sendto")

_ARGUMENT = re.compile(r'\s*("[^"]*"|[^,]+)(?:,|\Z)')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")
_UMASK = 0o022  # What the recorded process has.


class Recorder:
    """Follows the calls on one root, whose beginning is in `before`; what lies elsewhere is left out."""

    def __init__(self, root: Path, before: Path) -> None:
        self._root = str(root)
        self.recording = Recording({1: Inode(before.stat().st_mode)})
        self._names = self.recording.names
        self._open: dict[int, int] = {}  # Descriptor → inode.
        self._positions: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._begin(before, 1, {})
        self._names = dict(self._names)  # As they are now; the recording keeps how they began.

    def _begin(self, folder: Path, number: int, seen: dict[int, int]) -> None:
        for path in sorted(folder.iterdir()):
            if path.name == "index.db-shm":  # SQLite makes it anew from its log.
                continue
            status = path.lstat()
            if status.st_ino not in seen:
                seen[status.st_ino] = self._new(Inode(status.st_mode, status.st_mtime_ns, partial(_read, path)))
                self._sizes[seen[status.st_ino]] = status.st_size
            self._names[number, path.name] = seen[status.st_ino]
            if path.is_dir():
                self._begin(path, seen[status.st_ino], seen)

    def _new(self, inode: Inode) -> int:
        number = len(self.recording.inodes) + 1
        self.recording.inodes[number] = inode
        return number

    def follow(self, calls: list[Call]) -> Recording:
        for call in calls:
            if not call.result.startswith("-1"):
                handle = getattr(self, f"_{call.name}", None)
                if handle is not None:
                    handle(*_ARGUMENT.findall(call.arguments), call.result)
        return self.recording

    def compare(self) -> None:
        """With what is there now: RuntimeError when a call was missed. What lives on has the time of its last write."""
        steps, there = self.recording.steps, set(Path(self._root).rglob("*"))
        for (folder, name), number in self._names.items():
            path = Path(self._root, self._path(folder), name)
            old = self.recording.inodes[number]
            self.recording.inodes[number] = Inode(old.mode, path.lstat().st_mtime_ns, old.read)
            made = tuple(i for i, step in enumerate(steps) if isinstance(step, Content) and step.inode == number)
            if not old.is_directory and content(self.recording, number, Bytes(made))[0] != path.read_bytes():
                raise RuntimeError(f"the recording does not say how {path} came to be")
            there.remove(path)
        if {path.name for path in there} - {"index.db-shm"}:
            raise RuntimeError(f"the recording does not say where {there} came from")

    def _path(self, folder: int) -> str:
        if folder == 1:
            return ""
        (up, name) = next(key for key, number in self._names.items() if number == folder)
        return f"{self._path(up)}/{name}".strip("/")

    # Names.

    def _find(self, path: str) -> int | None:
        """The inode at that path, or None."""
        name = self._name(path)
        return self._names.get(name) if name else (1 if path == self._root else None)

    def _name(self, path: str) -> Name | None:
        """None for what is not under the root."""
        if not path.startswith(f"{self._root}/") or path.endswith("index.db-shm"):
            return None
        *folders, last = path[len(self._root) + 1 :].split("/")
        number = 1
        for folder in folders:
            number = self._names[number, folder]
        return number, last

    def _change(self, *changes: tuple[Name | None, int]) -> None:
        inside = tuple((name, number) for name, number in changes if name is not None)
        for name, number in inside:
            if number:
                self._names[name] = number
            else:
                self._names.pop(name, None)
        if inside:
            self.recording.steps.append(Names(inside))

    def _openat(self, folder: str, path: str, flags: str, *rest: str) -> None:
        full = _full(folder, path)
        descriptor, name = _number(rest[-1]), self._name(full)
        self._open.pop(descriptor, None)
        if name is None:
            if full == self._root:
                self._open[descriptor] = 1
            return
        if name not in self._names:
            self._change((name, self._new(Inode(stat.S_IFREG | (int(rest[0], 8) & ~_UMASK)))))
        inode = self._names[name]
        self._open[descriptor] = inode
        self._positions[descriptor] = -1 if "O_APPEND" in flags else 0
        if "O_TRUNC" in flags and self._sizes.get(inode):
            self._resize(inode, 0)

    def _close(self, descriptor: str, *_: str) -> None:
        self._open.pop(_number(descriptor), None)

    def _mkdir(self, path: str, mode: str, _: str) -> None:
        name = self._name(_text(path))
        if name is not None:
            self._change((name, self._new(Inode(stat.S_IFDIR | (int(mode, 8) & ~_UMASK)))))

    def _link(self, old: str, new: str, _: str) -> None:
        self._change((self._name(_text(new)), self._find(_text(old)) or 0))

    def _rename(self, old: str, new: str, _: str) -> None:
        moved = self._find(_text(old)) or 0
        self._change((self._name(_text(old)), 0), (self._name(_text(new)), moved))

    def _unlink(self, path: str, _: str) -> None:
        self._change((self._name(_text(path)), 0))

    _rmdir = _unlink

    def _unlinkat(self, folder: str, path: str, *_: str) -> None:
        self._change((self._name(_full(folder, path)), 0))

    # Bytes.

    def _inode(self, descriptor: str) -> int | None:
        """Of one that was opened before anybody watched, by its path."""
        number = _number(descriptor)
        if number not in self._open:
            found = self._find(_path(descriptor))
            if found is None:
                return None
            self._open[number] = found
        return self._open[number]

    def _write(self, descriptor: str, data: str, _: str, written: str) -> None:
        number, inode = _number(descriptor), self._inode(descriptor)
        if inode is not None:
            position = self._positions.get(number, -1)
            offset = position if position >= 0 else self._sizes.get(inode, 0)
            self._put(inode, offset, _bytes(data)[: int(written)])
            self._positions[number] = position + int(written) if position >= 0 else -1

    def _pwrite64(self, descriptor: str, data: str, _: str, offset: str, written: str) -> None:
        inode = self._inode(descriptor)
        if inode is not None:
            self._put(inode, int(offset), _bytes(data)[: int(written)])

    def _copy_file_range(self, source: str, start: str, target: str, offset: str, *rest: str) -> None:
        taken, given = self._inode(source), self._inode(target)
        if taken is not None and given is not None:
            steps = self.recording.steps
            made = tuple(i for i, s in enumerate(steps) if isinstance(s, Content) and s.inode == taken)
            first, count = _offset(start), int(rest[-1])
            self._put(given, _offset(offset), content(self.recording, taken, Bytes(made))[0][first : first + count])

    def _put(self, inode: int, offset: int, data: bytes) -> None:
        self._sizes[inode] = max(self._sizes.get(inode, 0), offset + len(data))
        self.recording.steps.append(Data(inode, offset, data))

    def _resize(self, inode: int, size: int) -> None:
        self._sizes[inode] = size
        self.recording.steps.append(Resize(inode, size))

    def _ftruncate(self, descriptor: str, size: str, _: str) -> None:
        inode = self._inode(descriptor)
        if inode is not None:
            self._resize(inode, int(size))

    def _fallocate(self, descriptor: str, _: str, offset: str, length: str, __: str) -> None:
        inode = self._inode(descriptor)
        if inode is not None and int(offset) + int(length) > self._sizes.get(inode, 0):
            self._resize(inode, int(offset) + int(length))

    def _fchmod(self, descriptor: str, mode: str, _: str) -> None:
        inode = self._inode(descriptor)
        if inode is not None:
            self.recording.steps.append(Mode(inode, int(mode, 8)))

    def _chmod(self, path: str, mode: str, _: str) -> None:
        inode = self._find(_text(path))
        if inode is not None:
            self.recording.steps.append(Mode(inode, int(mode, 8)))

    def _fsync(self, descriptor: str, _: str) -> None:
        inode = self._inode(descriptor)
        if inode is not None:
            self.recording.steps.append(Sync(inode))

    _fdatasync = _fsync

    def _sendto(self, _: str, data: str, *__: str) -> None:
        message = pickle.loads(_bytes(data))
        self.recording.steps.append(Said(message))


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _bytes(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _text(argument: str) -> str:
    return os.fsdecode(_bytes(argument))


def _offset(argument: str) -> int:
    """As it was before the call: `[0] => [100]`."""
    return int(argument.strip("[").partition("]")[0])


def _number(argument: str) -> int:
    match = _DESCRIPTOR.match(argument)
    return -1 if match is None or match[1] == "AT_FDCWD" else int(match[1])


def _path(argument: str) -> str:
    match = _DESCRIPTOR.match(argument)
    return _text(match[2]) if match else ""


def _full(folder: str, path: str) -> str:
    return os.path.join(_path(folder), _text(path))
