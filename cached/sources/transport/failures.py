"""The causes of failed connections, in words that help to find them: libraries wrap the system's errors in classes of
theirs."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator

from cached.errors import SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.transport.http1 import MalformedAnswer
from cached.sources.transport.ranges import unavailable

_CUT = "the connection was cut"
_NO_HTTP = "the answer is not HTTP"
_LATE = "it did not answer in time"
_PROXY = "the proxy cannot be used"
_KEYS = "the AWS credentials for it could not be fetched"
# By name: the libraries whose classes these are take a while to import, and not all of them are installed.
_NAMES = {
    "BadStatusLine": _NO_HTTP,
    "SentElsewhere": "it redirects to another place, which S3 does not",
    "HttpProcessingError": _NO_HTTP,
    "RemoteProtocolError": "the answer broke off, or is not HTTP",
    "ClientPayloadError": _CUT,
    "ConnectionClosedError": _CUT,
    "IncompleteRead": _CUT,
    "IncompleteReadError": _CUT,
    "ServerDisconnectedError": _CUT,
    "ConnectTimeoutError": _LATE,
    "ReadTimeoutError": _LATE,
    "ClientHttpProxyError": _PROXY,
    "ClientProxyConnectionError": _PROXY,
    "ProxyConnectionError": _PROXY,
    "ProxyError": _PROXY,
    "CredentialRetrievalError": _KEYS,
    "MetadataRetrievalError": _KEYS,
}


def connection_failed(ref: ModelRef, error: BaseException) -> SourceUnavailable:
    """Return the error for a failed connection, explained by the first known cause: `error` itself or an error that it
    was made from. Texts of libraries are not passed on: they may quote a signed URL."""
    said = next((why for cause in _causes(error) if (why := _said(cause))), "")
    # A failure to get keys does not show that the source itself is down.
    return unavailable(ref, said or f"the connection failed: {type(error).__name__}", seen=said != _KEYS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, the error that it was made from, and so on. A loop of contexts ends."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException) -> str:
    """Return the explanation of an error; empty if its class explains nothing. Names are checked first: some of these
    are OSErrors too, which do not concern the source."""
    if said := _NAMES.get(type(error).__name__):
        return said
    match error:
        case ssl.SSLCertVerificationError():
            return "its TLS certificate is not trusted"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return _CUT
        case ssl.SSLError():
            return "it does not speak TLS as it should"
        case socket.gaierror():
            return "the name of its host cannot be looked up"
        case OSError(errno=errno.ECONNREFUSED):
            return "the connection was refused"
        case MalformedAnswer():
            return _NO_HTTP
        case TimeoutError():
            return _LATE
        case ConnectionError() | OSError(errno=errno.ECONNRESET | errno.EPIPE | errno.ECONNABORTED):
            return _CUT
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case _:
            return ""
