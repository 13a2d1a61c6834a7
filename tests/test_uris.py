"""URIs: no secret stands in one that is accepted, and none is repeated of one that is not."""

from __future__ import annotations

import pickle

import pytest

from cached.errors import InvalidRequest
from cached.model_ref import ModelRef

SIGNED = "https://host/dir/m.gguf?X-Amz-Signature=CANARY&n=1"


@pytest.mark.parametrize(
    "typed",
    [
        "http://user:CANARY@host/m.gguf",
        "https://CANARY@host/m.gguf",
        "https://a@CANARY@host/m.gguf",
        "http://host:CANARY/m.gguf",
        "http://host%40CANARY/m.gguf",
        "http://8.8.8.8\\@CANARY/m.gguf",
        "http:///user:CANARY@host/m.gguf",
        "s3://AKIA:CANARY@bucket/m",
        "s3://CANARY@bucket/m",
        "s3:///AKIA:CANARY@bucket/m",
        "s3://anonymous:CANARY@bucket/m",
        "s3://bucket/m?X-Amz-Security-Token=CANARY",
        "s3://bucket/m#token=CANARY",
        "gs://CANARY@bucket/m",
        "gs://bucket/m?X-Goog-Signature=CANARY",
        "az://user:CANARY@account/m",
        "abfss://CANARY@account/m",
        "abfss://models@account.dfs.core.windows.net/m?sv=1&sig=CANARY",
        "ftp://user:CANARY@host/m",
        "sftp://CANARY@host/m",
        "webhdfs://host/m?access_token=CANARY",
        "hf://user:CANARY@org/name",
        "hf://org/name?token=CANARY",
        "org/name@main?token=CANARY",
        "user:CANARY@org/name",
        "org/name#CANARY",
        "s3://AKIA:CANARY@bucket/m x",
        "://CANARY@x",
    ],
)
def test_a_secret_in_a_uri_is_refused_and_not_repeated(typed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ModelRef.parse(typed)
    assert "CANARY" not in caught.value.message


@pytest.mark.parametrize(
    "typed",
    [
        "s3://anonymous@bucket/m",
        "gs://anonymous@bucket/m",
        "az://models@account/m",
        "s3://bucket/what?.bin",
        "s3://bucket/a@b/m",
        "file:///a@b/m?x",
        "http://host:80/a@b/m.gguf",
        "https://[::1]:8/m.gguf",
    ],
)
def test_what_is_no_secret_stays(typed: str) -> None:
    assert ModelRef.parse(typed).uri == typed


def test_a_query_is_sent_and_neither_remembered_nor_shown() -> None:
    ref = ModelRef.parse(f"{SIGNED}#CANARY")
    assert ref.url == SIGNED
    assert str(ref) == "https://host/dir/m.gguf"
    for shown in (ref.uri, ref.key, str(ref), repr(ref), ref.at("x").key):
        assert "CANARY" not in shown
    assert pickle.loads(pickle.dumps(ref)).url == SIGNED  # A worker is told.


def test_another_query_is_another_model_and_the_same_one_the_same() -> None:
    ref, same, other = (ModelRef.parse(uri) for uri in (SIGNED, SIGNED, SIGNED.replace("n=1", "n=2")))
    assert ref == same and ref.key == same.key and len({ref.key, other.key, ModelRef.parse(str(ref)).key}) == 3


def test_what_is_remembered_finds_the_model_and_asks_for_nothing() -> None:
    ref = ModelRef.from_key(ModelRef.parse(SIGNED).key)
    assert ref == ModelRef.parse(SIGNED) == ModelRef.parse(ref.uri)
    for known in (ref, ModelRef.parse(ref.uri)):
        with pytest.raises(InvalidRequest, match="ask again with the whole URL"):
            assert known.url
