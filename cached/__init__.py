"""The client of the node's model cache. Standard library only; `cached serve` needs the `daemon` extra.

The modules that all other packages share are here, the lowest layer last:

    wire.py config.py logs.py variables.py   the JSON on the socket, settings, log lines, a caller's variables
    access.py                      the access to a model
    model.py model_ref.py          the nouns: a source's listing, a caller's request
    globs.py                       patterns
    paths.py uris.py               names of files, and of places
    budget.py undumpable.py        a time limit for patterns; no secret in a core dump
    errors.py                      one tree of errors
"""

from cached.client.client import Client
from cached.client.lease import Lease
from cached.errors import (
    AllHeld,
    CachedError,
    ConfigError,
    CorruptBlob,
    DaemonUnavailable,
    DigestMismatch,
    Forbidden,
    InUse,
    InvalidRequest,
    ModelIncomplete,
    ModelNotFound,
    NoSpace,
    NotCached,
    NotFound,
    Overloaded,
    RevisionNotFound,
    SizeMismatch,
    SourceChanged,
    SourceDenied,
    SourceError,
    SourceUnavailable,
    StoreDegraded,
    TooLarge,
    TooManyUsers,
    VersionMismatch,
    WorkerLost,
)
from cached.model import Progress

__version__ = "0.1.0"

__all__ = [
    "AllHeld",
    "CachedError",
    "Client",
    "ConfigError",
    "CorruptBlob",
    "DaemonUnavailable",
    "DigestMismatch",
    "Forbidden",
    "InUse",
    "InvalidRequest",
    "Lease",
    "ModelIncomplete",
    "ModelNotFound",
    "NoSpace",
    "NotCached",
    "NotFound",
    "Overloaded",
    "Progress",
    "RevisionNotFound",
    "SizeMismatch",
    "SourceChanged",
    "SourceDenied",
    "SourceError",
    "SourceUnavailable",
    "StoreDegraded",
    "TooLarge",
    "TooManyUsers",
    "VersionMismatch",
    "WorkerLost",
]
