"""What a running daemon has: descriptors, listening sockets and locks, by the kernel's word; what lies below a root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_LISTENING = "0A"  # A state of /proc/net/tcp (include/net/tcp_states.h).
_ACCEPTS = 0x10000  # A flag of /proc/net/unix (include/linux/net.h: __SO_ACCEPTCON).


def descriptors(pids: Iterable[int]) -> set[str]:
    """What /proc calls them: paths, `socket:[inode]`, `pipe:[inode]`, `anon_inode:…`."""
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found.add(os.readlink(link))
            except FileNotFoundError:  # Closed while we looked.
                continue
    return found


def listening(pids: Iterable[int]) -> Iterator[str]:
    """Paths of unix sockets, and `HOST:PORT` in hex of TCP ones, that the processes accept connections on."""
    inodes = {name[8:-1] for name in descriptors(pids) if name.startswith("socket:[")}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if words[6] in inodes and int(words[3], 16) & _ACCEPTS:
            yield words[7] if len(words) > 7 else ""
    for name in ("tcp", "tcp6", "udp", "udp6", "raw"):
        table = Path(f"/proc/net/{name}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[9] in inodes and (words[3] == _LISTENING or name.startswith(("udp", "raw"))):
                yield words[1]


def locked(root: Path) -> set[str]:
    """Files below the root on which the kernel keeps a lock: `KIND path`."""
    names = {path.stat().st_ino: str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.replace("->", "").split()
        inode = int(words[5].rpartition(":")[2]) if len(words) > 5 else 0
        if inode in names:
            found.add(f"{words[1]} {names[inode]}")
    return found


def tree(root: Path) -> dict[str, os.stat_result]:
    """Everything below it, by relative path, as it is found at one moment; what goes meanwhile is left out."""
    found = {}
    for path in root.rglob("*"):
        try:
            found[str(path.relative_to(root))] = path.lstat()
        except FileNotFoundError:
            continue
    return found
