from __future__ import annotations

import pytest

from cached.errors import InvalidRequest
from cached.model_ref import ModelRef


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("org/name", "hf://org/name"),
        ("gpt2", "hf://gpt2"),
        ("org/name@main", "hf://org/name@main"),
        ("hf://org/name@refs/pr/1", "hf://org/name@refs/pr/1"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://anonymous@bucket/prefix", "s3://anonymous@bucket/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("file:///data/model", "file:///data/model"),
    ],
)
def test_what_a_person_types_becomes_one_canonical_form(typed: str, canonical: str) -> None:
    assert str(ModelRef.parse(typed)) == canonical


@pytest.mark.parametrize(
    "typed",
    ["", " ", "s3://", "://x", "org/na me", "a/b/c", "hf://../x", "hf://org/name@", "S3!://x", "hf://org/a--b/../c"],
)
def test_a_malformed_uri_is_an_invalid_request(typed: str) -> None:
    with pytest.raises(InvalidRequest):
        ModelRef.parse(typed)


def test_two_different_revisions_in_one_request_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="give one"):
        ModelRef.parse("org/name@main", revision="v2")


def test_only_a_full_commit_is_immutable() -> None:
    assert ModelRef.parse("org/name@" + "a" * 40).immutable
    assert not ModelRef.parse("org/name@main").immutable
    assert not ModelRef.parse("s3://bucket/prefix").immutable


def test_patterns_are_part_of_the_key_and_their_order_is_not() -> None:
    plain = ModelRef.parse("org/name")
    one = ModelRef.parse("org/name", include=["*.json", "*.safetensors"])
    two = ModelRef.parse("org/name", include=["*.safetensors", "*.json"])
    assert one.key == two.key != plain.key


def test_a_lean_ref_is_another_key_and_comes_back_from_it() -> None:
    whole = ModelRef.parse("org/name", include=["*.json"])
    lean = ModelRef.parse("org/name", include=["*.json"], lean=True)
    assert lean.key != whole.key
    assert [ModelRef.from_key(ref.key) for ref in (lean, whole)] == [lean, whole]
    assert (lean.keys, whole.keys) == ((lean.key, whole.key), (whole.key,))
    assert lean.at("v1").lean


def test_patterns_select_as_huggingface_hub_reads_them() -> None:
    ref = ModelRef.parse("org/name", include=["*.safetensors", "tokenizer/"], exclude=["*/optimizer*"])
    assert ref.selects("model.safetensors")
    assert ref.selects("deep/model.safetensors")
    assert ref.selects("tokenizer/vocab.json")
    assert not ref.selects("deep/optimizer.safetensors")
    assert not ref.selects("README.md")
