from __future__ import annotations

import pytest

from cached.errors import CachedError, InvalidRequest, ModelNotFound, _descendants
from cached.model import Digest, Entry, Listing, Manifest, ManifestFile, listing_revision
from cached.model_ref import ModelRef
from cached.paths import check_paths

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
