from __future__ import annotations

import pytest

from cached.errors import CachedError, InvalidRequest, ModelNotFound, _descendants
from cached.model import Digest, Entry, Listing, Manifest, ManifestFile, ModelRef, listing_revision
from cached.paths import check_paths


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


HOSTILE = [
    "../x", "a/../b", "/abs", "a//b", "./a", "a/.", "a\0b", "a\nb", "x" * 300, "a/" * 600 + "b", "C:\\x", "c:x", "a\\b",
    "con", "aux.json", "trailing.", "trailing ", "\u202emodel", "\ud800", "",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_before_the_first_byte(path: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing was fetched"):
        check_paths(["config.json", path])


@pytest.mark.parametrize(
    "paths",
    [["a", "A"], ["é", "e\u0301"], ["a", "a/b"], ["a/b", "a"], ["x", "x"], ["Dir/a", "dir"]],
    ids=ascii,
)
def test_names_that_collide_somewhere_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="nothing was fetched"):
        check_paths(paths)


def test_an_empty_listing_says_where_there_are_no_model_files() -> None:
    ref = ModelRef.parse("s3://bucket/empty")
    with pytest.raises(ModelNotFound, match="no model files at s3://bucket/empty"):
        Listing(ref, "s3://x", "r", ())


def test_a_manifest_is_named_by_its_content_and_not_by_its_order() -> None:
    a = ManifestFile("a", 1, Digest.of(b"a"))
    b = ManifestFile("b", 1, Digest.of(b"b"))
    assert Manifest((a, b)).digest == Manifest((b, a)).digest != Manifest((a,)).digest


def test_the_revision_of_a_place_without_revisions_follows_its_versions() -> None:
    one = listing_revision([Entry("a", 1, "v1"), Entry("b", 1, "v1")])
    assert one == listing_revision([Entry("b", 1, "v1"), Entry("a", 1, "v1")])
    assert one != listing_revision([Entry("a", 1, "v2"), Entry("b", 1, "v1")])


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "A" * 64, "a" * 63, "md5:" + "a" * 64])
def test_a_digest_is_sixty_four_lower_case_hex_digits(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Digest.parse(text)


def test_every_error_has_a_code_of_its_own() -> None:
    classes = _descendants(CachedError)
    assert len({cls.code for cls in classes}) == len(classes)
