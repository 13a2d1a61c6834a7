"""Models in GGUF: one file of a place, or the files of one quantisation, beside the configuration."""

from __future__ import annotations

import glob
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

# Files that an engine reads beside the weights. mmproj: the projector of a multi-modal model.
BESIDE = ("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "*.py", "*mmproj*.gguf")
_QUANTISATION = re.compile(r"(?P<place>.*[^:/]/[^:/]+)(?P<part>:[A-Za-z0-9_+-]+)\Z")
_NUMBERED = re.compile(r"-\d{5}-of-(\d{5}\.gguf)\Z")  # One shard of several; an engine gets the name of the first.


def gguf_parts(text: str) -> tuple[str, str]:
    """Return the place and the part of it that is meant; the part is empty when the whole place is meant.

    Parts are `org/name:Q4_K_M` and `org/name/folder/file.gguf` of the Hub; of a bucket only `…/file.gguf`, because a
    colon may be in the name of any of its folders.
    """
    scheme, separator, place = text.rpartition("://")
    prefix = scheme + separator
    on_hub = scheme in ("", "hf")
    if place.lower().endswith(".gguf"):
        folders = place.split("/")
        depth = 2 if on_hub else len(folders) - 1  # A Hub repository is `org/name`.
        if not 1 <= depth < len(folders):
            return text, ""
        return prefix + "/".join(folders[:depth]), "/" + "/".join(folders[depth:])
    match = _QUANTISATION.match(place) if on_hub else None
    return (prefix + match["place"], match["part"]) if match else (text, "")


def weights(part: str) -> tuple[str, ...]:
    """Return patterns of the weight files of such a part; none for the whole place."""
    if part.startswith(":"):  # As vLLM looks for them, and with the dot that many repositories write.
        return tuple(f"*[-.]{part[1:]}{end}" for end in (".gguf", "-*.gguf"))
    return (_NUMBERED.sub(r"-?????-of-\1", glob.escape(part[1:])),) if part else ()


def gguf_file(folder: str, part: str) -> str | None:
    """Return the path of the file for the engine: the first of several shards; None when nothing matches."""
    paths = [str(path.relative_to(folder)) for path in Path(folder).rglob("*.gguf")]
    fitting = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in weights(part))]
    found = min(fitting, key=lambda path: (path.count("-"), path), default=None)
    return None if found is None else os.path.join(folder, found)
