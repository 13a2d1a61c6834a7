"""How fast stored files are checked, from memory and from the disk, and what that does to the page cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import xxhash

from cached.model import PIECE_BYTES
from tests.bench.case import Case, Options
from tests.bench.data import MIB, write
from tests.bench.measure import PROGRAMS
from tests.bench.report import Found
from tests.page_cache import forget, on_a_disk, resident

SIZE = 1024 * MIB
BLOCK = "4M"


@dataclass(frozen=True)
class _File:
    path: Path
    sha256: str
    pieces: str

    @classmethod
    def of(cls, path: Path) -> _File:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            pieces = b"".join(xxhash.xxh3_128_digest(data) for data in iter(lambda: file.read(PIECE_BYTES), b""))
        return cls(path, sha256, pieces.hex())


def _measure(options: Options) -> Found:
    with on_a_disk() as folder:
        return speeds(folder, SIZE, options)


def speeds(folder: Path, size: int, options: Options) -> Found:
    write(folder / "data", [size, size])
    leased, other = (_File.of(path) for path in sorted((folder / "data").iterdir()) if path.stat().st_size == size)
    os.sync()
    taken: dict[str, list[dict[str, float]]] = {}
    kept: list[float] = []
    found = Found("A scrub, of files of 1 GiB", options.rounds, {}, place="disk")
    for _ in range(options.rounds):
        _load(leased.path)
        taken.setdefault("scrub, from the page cache, one core", []).append(_check(leased))
        forget(other.path)
        taken.setdefault("scrub, from the disk, one core", []).append(_check(other))
        kept += [resident(leased.path) / size, resident(other.path) / size]
        for name, command in _readers(other.path):
            forget(other.path)
            taken.setdefault(name, []).append(_run(name, command, size))
    for name, runs in taken.items():
        speed = size / 1e6 / statistics.median(run["seconds"] for run in runs)
        cpu = statistics.median(run["cpu"] for run in runs) / (size / 1e9)
        found.rows[name] = {"MB_per_s": speed, "cpu_s_per_GB": cpu}
    ours = taken["scrub, from the disk, one core"]
    for name in [name for name, _ in _readers(other.path)]:
        ratios = [theirs["seconds"] / mine["seconds"] for mine, theirs in zip(ours, taken[name], strict=True)]
        found.notes[f"scrub to {name.partition(',')[0]}, speed from the disk"] = statistics.median(ratios)
    found.notes["of the model that was in the page cache, still there afterwards, %"] = min(kept[::2]) * 100
    found.notes["of the one that was not, brought into it, %"] = max(kept[1::2]) * 100
    return found


def _check(file: _File) -> dict[str, float]:
    command = [sys.executable, str(PROGRAMS / "check.py"), str(file.path), file.sha256, file.pieces]
    said: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return said


def _readers(path: Path) -> list[tuple[str, list[str]]]:
    """What reads as fast as the disk gives it."""
    found = [("dd, direct", ["dd", f"if={path}", "of=/dev/null", f"bs={BLOCK}", "iflag=direct"])]
    if shutil.which("fio"):
        options = ["--rw=read", f"--bs={BLOCK}", "--direct=1", "--ioengine=psync", "--readonly"]
        command = ["fio", "--name=read", f"--filename={path}", *options, "--output-format=json"]
        found.append(("fio, direct", command))
    return found


def _run(name: str, command: list[str], size: int) -> dict[str, float]:
    """By its own account, without its start."""
    before = os.times()
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    cpu = sum(os.times()[2:4]) - sum(before[2:4])
    if name.startswith("fio"):
        return {"seconds": size / json.loads(ran.stdout)["jobs"][0]["read"]["bw_bytes"], "cpu": cpu}
    told = re.search(r"([\d.]+) s,", ran.stderr)
    assert told, ran.stderr
    return {"seconds": float(told[1]), "cpu": cpu}


def _load(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(8 * MIB):
            pass


SCRUB_CASE = Case("scrub", _measure)
