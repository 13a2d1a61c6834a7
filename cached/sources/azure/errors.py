"""Translate the errors of adlfs and Azure's own libraries to ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from azure.core import exceptions as azure
from fsspec.exceptions import FSTimeoutError

from cached.errors import CachedError, ModelNotFound
from cached.model_ref import ModelRef
from cached.sources.transport.failures import connection_failed
from cached.sources.transport.ranges import changed, denied, from_status, spoken, unavailable

_ADVICE = (
    "check the container, and the Azure credentials (AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, "
    "AZURE_CLIENT_SECRET or a managed identity)"
)


@contextmanager
def azure_errors(ref: ModelRef, file: str = "") -> Iterator[None]:
    """Translate Azure's errors to ours. With `file`, a missing blob means that it was removed. Texts are not passed on:
    they quote signed URLs."""
    try:
        yield
    except CachedError:
        raise
    except FileNotFoundError:
        raise _missing(ref, file) from None
    except (FSTimeoutError, TimeoutError):  # Not `seen`: its time includes waits for a turn on the loop.
        raise unavailable(ref, "it did not answer in time") from None
    except azure.HttpResponseError as error:
        raise _translated(ref, file, error) from None
    except ValueError:  # Of a token, say, which is never sent to an endpoint without TLS.
        raise denied(ref, f"they cannot be shown to the endpoint; {_ADVICE}") from None
    except (azure.AzureError, OSError) as error:
        raise connection_failed(ref, error) from None


def _translated(ref: ModelRef, file: str, error: azure.HttpResponseError) -> CachedError:
    code = str(getattr(error, "error_code", "") or "")
    if code in ("ContainerNotFound", "AccountIsDisabled", "PublicAccessNotPermitted", "NoAuthenticationInformation"):
        return denied(ref, _ADVICE, code)
    if error.status_code in (404, 410):
        return _missing(ref, file)
    if error.status_code in (412, 416):
        return changed(file or spoken(ref), "its ETag or size is another one")
    if isinstance(error, azure.ClientAuthenticationError):  # No status: there was not even a token.
        return denied(ref, _ADVICE, code or f"HTTP {error.status_code}")
    if error.status_code is None:
        return unavailable(ref, f"the answer is not understood: {type(error).__name__}")
    retry_after = getattr(error.response, "headers", {}).get("Retry-After")
    return from_status(ref, error.status_code, _ADVICE, retry_after)


def _missing(ref: ModelRef, file: str) -> CachedError:
    if file:
        return changed(file, "it is gone")
    return ModelNotFound(f"There are no model files at {spoken(ref)}: the place does not exist; check the URI.")
