"""The release before this one, as a wheel built from its commit: its client and its daemon are run beside ours."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.programs import program

COMMIT = "8437a421eddfb51f8cec58d24312d3a1db854958"  # The release before. The next release names itself here.
_REPOSITORY = Path(__file__).parents[2]
_PARTS = ("pyproject.toml", "README.md", "LICENSE", "cached", "serve_integration")


class Unobtainable(Exception):
    """The commit is not in this clone."""


class Release:
    """`environment` makes any Python of ours, and `cached` too, run this release instead of the working tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Safe path: `-c` and `-m` would else look into the working directory first, which is the tree itself.
        self.environment = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}

    @classmethod
    def built(cls, cache: Path) -> Release:
        """Build it, or take it from the cache that all processes of a test run share. Unobtainable without history."""
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / COMMIT
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _unpack(_wheel(cache), folder)
        return cls(folder)


def _wheel(cache: Path) -> Path:
    tree, wheels = cache / "tree", cache / "wheels"
    tree.mkdir(exist_ok=True)
    with subprocess.Popen(
        [program("git"), "archive", COMMIT, *_PARTS], cwd=_REPOSITORY, stdout=subprocess.PIPE
    ) as archive:
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=False)
    if archive.returncode:
        raise Unobtainable(
            f"this clone has no commit {COMMIT[:12]}, the release before; `git fetch --unshallow` gets it"
        )
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(wheels), str(tree)], check=True, cwd=cache)
    (wheel,) = wheels.glob("*.whl")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    fresh = folder.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(fresh)
    fresh.rename(folder)
