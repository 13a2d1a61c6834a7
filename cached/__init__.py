"""The client of the node's model cache. Standard library only; `cached serve` needs the `daemon` extra."""

from cached.client import Client
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
    WorkerLost,
)
from cached.lease import Lease
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
    "WorkerLost",
]
