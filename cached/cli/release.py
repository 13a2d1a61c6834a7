"""Which release this is."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "model-cached"  # The command's name was taken.


def installed_version() -> str:
    return importlib.metadata.version(DISTRIBUTION)
