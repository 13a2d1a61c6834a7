"""Our signatures are those of botocore."""

from __future__ import annotations

import datetime as clock

import botocore.auth  # type: ignore[import-untyped]
import pytest
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from cached.sources.s3.sigv4 import Keys, signed_headers, uri_path

NOW = clock.datetime(2026, 2, 3, 4, 5, 6, tzinfo=clock.UTC)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("token", [None, "session/token+="])
@pytest.mark.parametrize("key", ["m/config.json", "sp ace+%41/ü~(1)!*'.bin", "a//b/./c=d&e"])
@pytest.mark.parametrize("query", [{}, {"versionId": "3/L4+x=="}])
def test_a_signature_is_the_one_that_botocore_makes(
    method: str, token: str | None, key: str, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: NOW.replace(tzinfo=None))
    headers = {"If-Match": '"abc"'}
    path = uri_path(f"/bucket/{key}")
    theirs = AWSRequest(method, f"http://127.0.0.1:9000{path}", headers=dict(headers), params=query)
    # Nobody signs the empty payload of a GET; botocore does so over plain HTTP only.
    monkeypatch.setattr(botocore.auth.S3SigV4Auth, "_should_sha256_sign_payload", lambda *_: False)
    botocore.auth.S3SigV4Auth(Credentials("AKIA", "SECRET", token), "s3", "eu-west-1").add_auth(theirs)
    keys = Keys("AKIA", "SECRET", token)
    ours = signed_headers(keys, "eu-west-1", "127.0.0.1:9000", path, query, headers, NOW, method=method)
    assert ours["Authorization"] == theirs.headers["Authorization"]
    assert {name.lower(): ours[name] for name in ours} == {name.lower(): text for name, text in theirs.headers.items()}
