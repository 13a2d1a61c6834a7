"""Identify the owner of temporary keys by Amazon's token service: every start of a process gets new ones for the same
role.

https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html wants no permission. Where S3 is another
server than Amazon's, that server is queried; one that does not know the request is recognised by its answer.

Two sessions of one role may have policies of their own, of which this says nothing: a proof by one is no proof for the
other, only a reason to check fewer files.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

from cached.sources.s3.signer import S3Signer
from cached.sources.s3.sigv4 import Keys, signed_headers
from cached.sources.transport.pool import Lanes, Request

REMEMBERED = 1024  # Keys. Their owner does not change as long as they are valid.
SILENT_SECONDS = 60.0  # Before a service that did not answer is queried again.

_QUERY = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
_SPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"


class Principals:
    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[str | None, float]] = OrderedDict()  # By keys and endpoint: name, expiry.

    def of(self, keys: Keys, signer: S3Signer, timeout: float) -> str | None:
        """Return account and role, or the user; None if the service does not state it."""
        endpoint = _endpoint(signer)
        parts = [keys.access, keys.secret, keys.token or "", endpoint]
        known = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        with self._lock:
            found, until = self._known.get(known, (None, 0.0))
            if time.monotonic() < until:
                self._known.move_to_end(known)
                return found
        found = self._ask(keys, endpoint, _region(signer), timeout)
        with self._lock:
            self._known[known] = found, float("inf") if found else time.monotonic() + SILENT_SECONDS
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _ask(self, keys: Keys, endpoint: str, region: str, timeout: float) -> str | None:
        parts = urlsplit(endpoint)
        path = f"{parts.path.rstrip('/')}/"
        signed = signed_headers(keys, region, parts.netloc, path, _QUERY, {}, datetime.now(UTC), service="sts")
        try:
            request = Request(parts.scheme, parts.netloc, f"{path}?{urlencode(_QUERY)}", signed, keys)
            said = self._lanes.text(request, timeout)
            return _name(said[1]) if said else None
        except (OSError, ElementTree.ParseError):
            return None


def _endpoint(signer: S3Signer) -> str:
    """Return Amazon's endpoint, of the region; else the one of S3."""
    if own := os.environ.get("AWS_ENDPOINT_URL_STS"):
        return own
    if signer.suffix:
        return f"https://sts.{_region(signer)}.{signer.suffix}"
    return signer.endpoint


def _region(signer: S3Signer) -> str:
    return signer.region if signer.region != "aws-global" else "us-east-1"


def _name(answer: bytes) -> str | None:
    """Return the name without the session; None if the answer gives none."""
    root = ElementTree.fromstring(answer)
    if root.tag != f"{_SPACE}GetCallerIdentityResponse":
        return None
    arn = root.findtext(f".//{_SPACE}Arn") or ""
    kind = arn.rpartition(":")[2].partition("/")[0]
    if kind == "assumed-role" and arn.count("/") >= 2:
        return arn.rpartition("/")[0]
    # A federated user's rights depend on its token, not on its name.
    return arn if kind in ("user", "root") else None
