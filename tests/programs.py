"""What the tests run beside Python, and where Debian has it. Whoever needs one asks `program` for it.

What every Linux has (util-linux, mount, a shell) is not among it.

    program("strace")           where it is; the test that asks is left out without it, and names the package
    python -m tests.programs    install what is missing, where that may be done; say what stays missing
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

PACKAGES = {
    "dbus-daemon": "dbus",
    "faketime": "faketime",
    "git": "git",
    "e2fsck": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
}
REASON = "{program} is missing: it is in the package {package}"
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str) -> str:
    """Its path. Without it the test that asks is skipped, and says which package has it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(REASON.format(program=name, package=PACKAGES[name]))
    return found


def missing() -> list[str]:
    return [name for name in PACKAGES if shutil.which(name, path=PATH) is None]


def main() -> None:
    """Fails never: without them the tests tell what they leave out."""
    if absent := missing():
        _install(sorted({PACKAGES[name] for name in absent}))
    if absent := missing():
        print(f"Tests that need {', '.join(absent)} will be left out.", flush=True)


def _install(packages: list[str]) -> None:
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Some tests need more than is here; as root on Debian: apt-get install {names}", flush=True)
        return
    print(f"Installing {names} with apt-get, which some tests need.", flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        if subprocess.run(["apt-get", *command], check=False, **quiet).returncode:  # type: ignore[call-overload]
            print(f"`apt-get {command[0]}` failed.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
