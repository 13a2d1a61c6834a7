"""Check file names from a remote, which become paths below a snapshot."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from cached.errors import InvalidRequest

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255  # ext4 and XFS.
MAX_FOLDERS = 100_000  # The path of one file could name five hundred.

_WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z")


def safe_path(text: str) -> str:
    """Return `text` if it can name a file below a snapshot on any supported file system; else raise InvalidRequest.

    Absolute and Windows forms, `.` and `..`, empty parts, control characters and over-long names are refused.
    """
    problem = _path_problem(text)
    if problem:
        raise InvalidRequest(f"The source lists a file named {text[:120]!r}, which {problem}; nothing was fetched.")
    return text


def is_safe(text: str) -> bool:
    return _path_problem(text) is None


def _path_problem(text: str) -> str | None:
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid text"
    if not text or len(encoded) > MAX_PATH_BYTES:
        return f"is empty or longer than {MAX_PATH_BYTES} bytes"
    if text.startswith("/") or "\\" in text or re.match(r"[A-Za-z]:", text):
        return "is an absolute or Windows path"
    plain = text.isascii() and text.isprintable()  # Avoids a check of every letter in a model of thousands of files.
    if not plain and any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text):
        return "holds control characters"
    for part in text.split("/"):
        if part in ("", ".", ".."):
            return "leaves or repeats its directory"
        if part.endswith((" ", ".")) or _WINDOWS.match(part) or len(part.encode()) > MAX_NAME_BYTES:
            return "is not portable"
    return None


def check_paths(paths: Iterable[str]) -> None:
    """Raise InvalidRequest unless every path is safe and none collide (case, Unicode form, file against directory)."""
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        safe_path(path)
        folded = _fold(path)
        if folded in files:
            raise InvalidRequest(
                f"The source lists {files[folded]!r} and {path!r}, which collide; nothing was fetched."
            )
        files[folded] = path
        parent = folded.rpartition("/")[0]
        while parent and parent not in directories:  # The parents of a known directory are known too.
            directories[parent] = path
            parent = parent.rpartition("/")[0]
        if len(directories) > MAX_FOLDERS:
            raise InvalidRequest(f"The source lists files in more than {MAX_FOLDERS:,} folders; nothing was fetched.")
    for folded in files.keys() & directories.keys():
        raise InvalidRequest(
            f"The source lists {files[folded]!r} both as a file and as a directory ({directories[folded]!r}); "
            "nothing was fetched."
        )


def _fold(path: str) -> str:
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()
