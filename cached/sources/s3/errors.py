"""Translate the errors of S3, s3fs, botocore and aiohttp to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
import botocore.exceptions as boto  # type: ignore[import-untyped]

from cached.errors import CachedError, InvalidRequest, ModelNotFound, SourceError
from cached.model_ref import ModelRef
from cached.sources.transport.failures import connection_failed
from cached.sources.transport.ranges import changed, denied, from_status, spoken, unavailable

_DENIED = frozenset(
    {"AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId"}
    | {"InvalidSecurity", "InvalidToken", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
    # Answers to a request that is not signed, besides AccessDenied; the second is rclone's.
    | {"MissingSecurityHeader", "UnsupportedAlgorithm", "TokenRefreshRequired"}
)
_ADVICE = "check the bucket, and the AWS keys, profile or role; a public bucket is s3://anonymous@bucket/prefix"


class s3_errors:
    """Translate the errors of s3fs, botocore and aiohttp to ours. With `file`, a missing object means that it was
    removed.

    A class, because it is entered for each small file.
    """

    __slots__ = ("_file", "_ref")

    def __init__(self, ref: ModelRef, file: str = "") -> None:
        self._ref, self._file = ref, file

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (failure := _failure(self._ref, self._file, error)) is not None:
            raise failure from None


def _failure(ref: ModelRef, file: str, error: BaseException) -> CachedError | None:
    """Return our error for `error`; None if it needs no translation."""
    match error:
        case CachedError():
            return None
        case TimeoutError() if not isinstance(error, aiohttp.ClientError):
            # s3fs's own is one. Not `seen`: its time includes waits for a turn on the loop and for a connection.
            return unavailable(ref, "it did not answer in time")
        case boto.NoCredentialsError() | boto.PartialCredentialsError() | boto.ProfileNotFound():
            return denied(ref, f"there are no AWS credentials for it; {_ADVICE}")
        case boto.ParamValidationError() | boto.NoRegionError() | boto.InvalidRegionError():
            return InvalidRequest(f"{spoken(ref)} is not a place in S3; check the bucket, and the region setting.")
        case boto.BotoCoreError() | aiohttp.ClientError():
            return connection_failed(ref, error)
        case boto.ClientError() | OSError():
            return _translated(ref, file, error)
        case _:
            return None


def _translated(ref: ModelRef, file: str, error: Exception) -> CachedError:
    # s3fs makes OSErrors of S3's answers and keeps the answer as the cause.
    answer = error if isinstance(error, boto.ClientError) else error.__cause__
    if not isinstance(answer, boto.ClientError):
        return connection_failed(ref, error)
    code = str(answer.response.get("Error", {}).get("Code", ""))
    metadata: Mapping[str, Any] = answer.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code == "PreconditionFailed" or status in (412, 416):
        return changed(file or spoken(ref), "its ETag or size is another one")
    if code in _DENIED or (code == "NoSuchBucket" and not file):
        return denied(ref, _ADVICE, code)
    if code == "400":  # The answer to a HEAD has no error code, and expired keys get 400.
        return denied(ref, _ADVICE, "HTTP 400")
    if status == 404 or code in ("NoSuchKey", "NoSuchVersion"):
        return changed(file, "it is gone") if file else ModelNotFound(_missing(ref))
    if status in (301, 307):
        return SourceError(f"The bucket of {spoken(ref)} is in another region; set s3_region or AWS_REGION to it.")
    if code in ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"):
        after = metadata.get("HTTPHeaders", {}).get("retry-after")
        return unavailable(ref, code, after, seen=status >= 500 and code != "SlowDown")
    return from_status(ref, status, _ADVICE, metadata.get("HTTPHeaders", {}).get("retry-after"))


def _missing(ref: ModelRef) -> str:
    return f"There are no model files at {spoken(ref)}: the place does not exist; check the URI."
