"""Translate the Hub's failed answers to our errors."""

from __future__ import annotations

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import hf_raise_for_status

from cached.errors import CachedError, ModelNotFound, RevisionNotFound, SourceError
from cached.model_ref import ModelRef
from cached.sources.transport.ranges import changed, denied, from_status

_ADVICE = (
    "check the name; if it is gated or private, ask for access on its page and set HF_TOKEN to a token that has it"
)


def check(ref: ModelRef, response: httpx2.Response, file: str = "") -> None:
    """Raise the Hub's errors as ours. With `file`, a missing file means that it was removed."""
    try:
        hf_raise_for_status(response)
    except HfHubHTTPError as error:
        raise _translated(ref, file, error) from None


def _translated(ref: ModelRef, file: str, error: HfHubHTTPError) -> CachedError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return denied(ref, _ADVICE, f"HTTP {status}, gated")
    if isinstance(error, DisabledRepoError):
        return denied(ref, "it has been disabled by the Hub; use another repository")
    if isinstance(error, RevisionNotFoundError):
        revision = ref.revision or constants.DEFAULT_REVISION
        return RevisionNotFound(f"{ref.uri} has no revision {revision!r}; give a branch, tag or commit that it has.")
    said_missing = error.response.headers.get("X-Error-Code") == "RepoNotFound"
    if isinstance(error, RepositoryNotFoundError) and (said_missing or status == 404):
        return denied(ref, _ADVICE, f"HTTP {status}, no such repository, or a private one")
    if status == 404:
        return changed(file, "it is gone") if file else ModelNotFound(f"The Hub has nothing at {ref}; check the name.")
    if status in (400, 416):
        return SourceError(f"The Hub does not understand the request for {ref} (HTTP {status}); check the name.")
    return from_status(ref, status, _ADVICE, error.response.headers.get("Retry-After"))
