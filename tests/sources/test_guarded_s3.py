"""The front that makes S3 as unkind as Amazon's is held against botocore, because other tests build on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.servers import GuardedS3, Moto


@pytest.fixture
def guarded(moto: Moto) -> Iterator[GuardedS3]:
    with GuardedS3(moto.endpoint) as front:
        yield front


def client(front: GuardedS3, key: str) -> Any:
    names = {"aws_access_key_id": key, "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.session.Session().client("s3", endpoint_url=front.endpoint, **names)


def test_the_right_to_list_is_not_the_right_to_read(moto: Moto, guarded: GuardedS3) -> None:
    moto.put("guarded", "team/a/w.bin", b"a")
    moto.put("guarded", "team/b/w.bin", b"b")
    guarded.allow("AKIAB", lists=["guarded/"], reads=["guarded/team/b/"])
    b = client(guarded, "AKIAB")
    listed = b.list_objects_v2(Bucket="guarded", Prefix="team/")
    assert [item["Key"] for item in listed["Contents"]] == ["team/a/w.bin", "team/b/w.bin"]
    assert b.get_object(Bucket="guarded", Key="team/b/w.bin")["Body"].read() == b"b"
    for ask in (b.get_object, b.head_object):
        with pytest.raises(ClientError, match=r"AccessDenied|403"):
            ask(Bucket="guarded", Key="team/a/w.bin")
    with pytest.raises(ClientError, match="AccessDenied"):
        client(guarded, "AKIASTRANGER").list_objects_v2(Bucket="guarded")


def test_what_is_encrypted_with_anothers_key_has_a_head_and_no_bytes(moto: Moto, guarded: GuardedS3) -> None:
    moto.put("guarded", "locked/w.bin", b"secret")
    guarded.allow("AKIAB", lists=["guarded/"], reads=["guarded/"], heads_only=["guarded/locked/"])
    b = client(guarded, "AKIAB")
    assert b.head_object(Bucket="guarded", Key="locked/w.bin")["ContentLength"] == 6
    with pytest.raises(ClientError, match="AccessDenied"):
        b.get_object(Bucket="guarded", Key="locked/w.bin")


def test_a_tenants_bucket_is_its_own(moto: Moto, guarded: GuardedS3) -> None:
    moto.put("guarded", "llama/w.bin", b"a's")
    moto.put("guarded-of-b", "llama/w.bin", b"b's")
    for who in ("AKIAA", "AKIAB"):
        guarded.allow(who, lists=["guarded/"], reads=["guarded/"])
    guarded.tenant("AKIAB", guarded="guarded-of-b")
    got = [
        client(guarded, who).get_object(Bucket="guarded", Key="llama/w.bin")["Body"].read()
        for who in ("AKIAA", "AKIAB")
    ]
    assert got == [b"a's", b"b's"]
