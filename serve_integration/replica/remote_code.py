"""Code that is beside a model (`trust_remote_code`): from a directory it runs as it is, no matter which revision of it
is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cached import InvalidRequest
from serve_integration.models.model_source import Reference
from serve_integration.replica.acquire import Held


def code_revision(settings: Mapping[str, Any], engine_kwargs: Mapping[str, Any]) -> str | None:
    """Return the revision of the code in these settings of an engine or a draft model; None when no code may run."""
    found: str | None = settings.get("code_revision") if engine_kwargs.get("trust_remote_code") else None
    return found


def check_code(wanted: Reference, held: Held, revision: str | None) -> None:
    """Raise InvalidRequest when the engine would run the code of another revision than this one, which the user may
    have reviewed.

    It passes models in a bucket, where a revision means nothing to the engine, and code of another repository:
    transformers fetches that, at the revision that is wanted.
    """
    if revision is None or wanted.asked is None or revision in (wanted.asked, held.revision):
        return
    if _names_own_code(held.path):
        raise InvalidRequest(
            f"its code is wanted at the revision {revision!r}, but an engine runs the code that lies beside the model, "
            f"which is at {wanted.asked!r}; leave code_revision out, or make it the model's revision."
        )


def _names_own_code(folder: str) -> bool:
    """Return True if the folder's configuration names code of its own. As in transformers, `auto_map` has
    `module.Class`, and `org/other--module.Class` for code of another repository."""
    try:
        named = json.loads(Path(folder, "config.json").read_bytes()).get("auto_map")
    except (OSError, ValueError, AttributeError):
        return False  # The engine reports the error.
    return isinstance(named, dict) and any("--" not in str(name) for name in named.values())
