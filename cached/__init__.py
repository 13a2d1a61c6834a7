"""The client of the node's model cache. Standard library only; `cached serve` needs the `daemon` extra.

What everybody shares stands here, the lowest last:

    wire.py config.py logs.py variables.py   the JSON on the socket, settings, log lines, a caller's variables
    access.py                      who may read a model
    model.py model_ref.py          the nouns: what a source lists, what a caller asks for
    globs.py                       patterns
    paths.py uris.py               names of files, and of places
    budget.py undumpable.py        how long a pattern may take, and that no core holds a secret
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
