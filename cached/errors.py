"""The errors of `cached`, in one tree, so that callers can catch one root.

Each class fixes the code that crosses the wire, the CLI's exit code and the HTTP status. The message is one sentence
for a person: it states the event, the model and the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class CachedError(Exception):
    """The root class. `retryable` says that the same request may succeed later without intervention."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    retryable: bool = False

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(CachedError):
    """A malformed URI, a hostile file name, an unknown scheme or a wrong setting."""

    code, exit_code, status = "invalid_request", 2, 400


class ConfigError(InvalidRequest):
    """A setting that is unknown, of the wrong type or out of range."""

    code = "invalid_config"


class VersionMismatch(InvalidRequest):
    """The client and the daemon differ in version, and one needs a feature that the other does not know."""

    code = "version_mismatch"


class Forbidden(CachedError):
    """The caller's uid may not use this verb."""

    code, exit_code, status = "forbidden", 4, 403


class NotFound(CachedError):
    code, exit_code, status = "not_found", 1, 404


class ModelNotFound(NotFound):
    """The source has no such model, or no file of it matches."""

    code = "model_not_found"


class ModelIncomplete(ModelNotFound):
    """The caller requested an LLM, and there are files but nothing that an engine could load."""

    code = "model_incomplete"


class RevisionNotFound(NotFound):
    code = "revision_not_found"


class NotCached(NotFound):
    """The model is not cached on the node, and nothing may be fetched for this request."""

    code, exit_code = "not_cached", 3


class SourceError(CachedError):
    """The remote failed."""

    code, status = "source_error", 502


class SourceUnavailable(SourceError):
    """The source could not be reached, timed out, or answered 429 or 5xx, after the retries."""

    code, status, retryable = "source_unavailable", 503, True
    retry_after: float | None = None  # Seconds to wait, if the source named them.
    # A connection failed, or a 5xx was received: the source is down. Not set if it only asked for fewer requests, or
    # if we were too busy to send one.
    seen: bool = False


class SourceDenied(SourceError):
    """The model does not exist, or the caller may not read it: forbidden and absent models look the same."""

    code, exit_code, status = "source_denied", 4, 403
    said: str = ""  # The source's own words, for the operator's log alone.


class SourceChanged(SourceError):
    """The remote file is no longer the version that the listing named."""

    code, status, retryable = "source_changed", 409, True


class CorruptBlob(CachedError):
    code, exit_code = "corrupt", 6


class SizeMismatch(CorruptBlob):
    code = "size_mismatch"


class DigestMismatch(CorruptBlob):
    code = "digest_mismatch"


class NoSpace(CachedError):
    code, exit_code, status = "no_space", 5, 507


class TooLarge(NoSpace):
    """The model would not fit an empty store, or has more files than a model may have."""

    code = "too_large"


class AllHeld(NoSpace):
    """Leases, pins and running fills protect everything that could be evicted to make room."""

    code, retryable = "all_held", True


class InUse(CachedError):
    """The snapshot was not removed, because it is leased or pinned; the message names the holders."""

    code, status, retryable = "in_use", 409, True


class TooManyUsers(CachedError):
    """More users request one model at once than the file system can name in an ACL."""

    code, status, retryable = "too_many_users", 503, True


class StoreDegraded(CachedError):
    """An fsync failed, a root cannot be written or locked, or an index is beyond repair.

    `lasting`: the disk itself failed, and nothing more may be written to it until an operator has checked it.
    """

    code, status = "store_degraded", 503
    lasting: bool = False


class WorkerLost(CachedError):
    """The process that fetches ended unexpectedly, or cannot be started. Written bytes are kept for the next try."""

    code, status, retryable = "worker_lost", 503, True


class Overloaded(CachedError):
    """The caller sends more requests at once than one user may. This says nothing of the source, which was not used."""

    code, status, retryable = "overloaded", 503, True


class DaemonUnavailable(CachedError):
    """The client found no socket, or no daemon answers on it."""

    code, exit_code, status, retryable = "daemon_unavailable", 69, 503, True


def _descendants(cls: type[CachedError]) -> list[type[CachedError]]:
    return [cls] + [d for sub in cls.__subclasses__() for d in _descendants(sub)]


BY_CODE: dict[str, type[CachedError]] = {cls.code: cls for cls in _descendants(CachedError)}


# The class for a code that only a newer daemon knows. 409 and 503 tell nothing more than `retryable`.
_BY_STATUS: dict[int, type[CachedError]] = {
    400: InvalidRequest,
    403: Forbidden,
    404: NotFound,
    502: SourceError,
    507: NoSpace,
}


def from_code(code: str, message: str, status: int = 500, retryable: bool = False) -> CachedError:
    """Return the error that a daemon meant. An unknown code (a newer daemon's) becomes the class of its HTTP status."""
    if code in BY_CODE:
        return BY_CODE[code](message)
    error = _BY_STATUS.get(status, CachedError)(message)
    error.retryable = retryable
    return error
