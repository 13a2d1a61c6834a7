"""What an LLMConfig's model source means to the cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_integration.models.model_source import Reference, ray_form, reference


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("org/name", "hf://org/name"),
        ("gpt2", "hf://gpt2"),
        ("org/name@v1", "hf://org/name@v1"),
        ("hf://org/name@v1", "hf://org/name@v1"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/"),
        ("s3://anonymous@bucket/prefix", "s3://anonymous@bucket/prefix"),
        ("gs://bucket/prefix", "gs://bucket/prefix"),
        ("abfss://box@account/prefix", "abfss://box@account/prefix"),
        ({"bucket_uri": "s3://bucket/prefix"}, "s3://bucket/prefix"),
        (SimpleNamespace(bucket_uri="gs://bucket/prefix"), "gs://bucket/prefix"),
    ],
)
def test_a_remote_source_is_asked_of_the_cache(source: object, uri: str) -> None:
    assert reference("chat", source) == Reference(uri)


@pytest.mark.parametrize("source", [None, {"bucket_uri": None}, SimpleNamespace(bucket_uri=None)])
def test_the_model_id_is_the_source_when_none_is_given(source: object) -> None:
    assert reference("org/name", source) == Reference("hf://org/name")


def test_an_existing_folder_is_left_alone_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert reference("chat", "org/name") is None
    assert reference("chat", str(tmp_path)) is None


@pytest.mark.parametrize("source", ["/models/x", "./x", "../x", "~/x", "x:Q4_K_M", "org/file.gguf"])
def test_what_only_the_engine_can_read_is_left_to_it(source: str) -> None:
    assert reference("chat", source) is None


@pytest.mark.parametrize(("value", "means"), [("True", True), (" 1", True), ("0", False), ("", False)])
def test_where_vllm_reads_names_from_modelscope_they_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch, value: str, means: bool
) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", value)
    for name in ("org/name", "org/name@v1", "org/name:Q4_K_M"):
        assert (reference("chat", name) is None) == means
    assert reference("chat", "hf://org/name") == Reference("hf://org/name")
    assert reference("chat", "s3://bucket/prefix") == Reference("s3://bucket/prefix")


def test_the_engines_revision_selects_among_hub_commits_and_nothing_else() -> None:
    assert reference("chat", "org/name", "v2") == Reference("hf://org/name", "v2")
    assert reference("chat", "s3://bucket/prefix", "v2") == Reference("s3://bucket/prefix")


def test_a_hub_uri_falls_back_to_the_name_and_revision_that_ray_knows() -> None:
    assert ray_form(Reference("hf://org/name@v1")) == ("org/name", "v1")
    assert ray_form(Reference("hf://org/name", "v2")) == ("org/name", "v2")
    assert ray_form(Reference("file:///models/x")) == ("/models/x", None)


def test_a_bucket_falls_back_as_it_is() -> None:
    assert ray_form(Reference("s3://bucket/prefix")) is None


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("uri", "revision", "moves"),
    [
        ("hf://org/name", None, True),
        ("hf://org/name", "main", True),
        ("hf://org/name@main", None, True),
        ("hf://org/name", COMMIT, False),
        (f"hf://org/name@{COMMIT}", None, False),
        ("s3://bucket/prefix", None, False),
    ],
)
def test_only_a_hub_repository_can_be_pinned_and_only_once(uri: str, revision: str | None, moves: bool) -> None:
    wanted = Reference(uri, revision)
    assert wanted.moves is moves
    if uri.startswith("hf://"):
        assert wanted.at(COMMIT) == Reference("hf://org/name", COMMIT)
    else:
        assert wanted.at(COMMIT) == wanted


def test_a_repository_at_a_revision_is_one_place_however_it_is_written() -> None:
    inline, beside = Reference("hf://org/name@v1"), Reference("hf://org/name", "v1")
    assert inline.is_same_place(beside)
    assert Reference("hf://org/name").is_same_place(Reference("hf://org/name", "main"))
    assert Reference("s3://bucket/prefix").is_same_place(Reference("s3://bucket/prefix", lean=True))
    for other in (
        Reference("hf://org/name"),
        Reference("hf://org/other", "v1"),
        Reference("hf://org/name@v1", part=":Q8"),
    ):
        assert not inline.is_same_place(other)


def test_a_revision_that_a_name_has_wins_over_one_that_comes_from_elsewhere() -> None:
    assert Reference("hf://org/name@v1").or_at("v2").asked == "v1"
    assert Reference("hf://org/name", "v1").or_at("v2").asked == "v1"
    assert Reference("hf://org/name").or_at("v2") == Reference("hf://org/name", "v2")
    assert Reference("s3://anonymous@bucket/prefix").or_at("v2") == Reference("s3://anonymous@bucket/prefix")
