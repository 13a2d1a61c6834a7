"""What one request may hold: every bound is said in a sentence, and nothing inside costs more than it is long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cached import InvalidRequest, ModelIncomplete
from cached.daemon.http.acquire_request import MAX_PATTERN, MAX_PATTERN_BYTES, MAX_PATTERNS, Acquire
from cached.model_ref import ModelRef
from tests.daemon_process import DaemonProcess
from tests.raw_http import ask

Model = Callable[..., Path]


@pytest.fixture
def local(daemon: DaemonProcess, tmp_path: Path) -> DaemonProcess:
    (tmp_path / "models").mkdir()
    return daemon.start(protocols=["file"], file_roots=[str(tmp_path / "models")], max_age="1h")


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ({"include": ["[" * (MAX_PATTERN + 1)]}, r"The pattern '\[+'… has 1,025 characters, of which 1,024"),
        ({"include": ["a"] * 600, "exclude": ["b"] * 401}, "1,001 patterns, and at most 1,000"),
        ({"include": ["ü" * 1000] * 5, "exclude": ["ö" * 1000] * 4}, "18,000 bytes together, and at most 16,384"),
        ({"include": ["\ud800"]}, "not valid Unicode"),
        ({"include": [3]}, "`include` must be a list"),
        ({"credentials": {"HF_TOKEN": "x" * 20_000}}, "`credentials` has more than 16,384 bytes"),
    ],
    ids=["one too long", "too many", "too many bytes", "half a letter", "a number", "credentials"],
)
def test_what_passes_a_bound_is_refused_in_a_sentence_that_names_it(patterns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        Acquire.parse({"uri": "org/name", **patterns})


def test_as_many_patterns_as_the_bounds_allow_are_taken() -> None:
    whole = [f"{number:04}{'x' * 12}" for number in range(MAX_PATTERNS)]
    assert len(Acquire.parse({"uri": "org/name", "include": whole}).ask.ref.include) == MAX_PATTERNS
    longest = [str(number) + "y" * (MAX_PATTERN - 1) for number in range(MAX_PATTERN_BYTES // MAX_PATTERN - 10)]
    assert Acquire.parse({"uri": "org/name", "exclude": longest}).ask.ref.exclude


@pytest.mark.parametrize(
    "body",
    [b"[" * 60_000, b'{"a":' * 10_000, b'{"keep": ' + b"9" * 60_000 + b"}", b"\xff\xfe", b"null", b"x" * 70_000],
    ids=["deep", "deep objects", "a huge number", "no text", "no object", "too long"],
)
def test_a_body_that_is_none_of_ours_is_refused_in_a_sentence_and_leaves_no_trace(
    local: DaemonProcess, body: bytes
) -> None:
    status, answer = ask(local, "POST", "/v1/acquire", body)
    assert status == 400
    assert answer["code"] == "invalid_request" and answer["message"].endswith(".")
    assert "Traceback" not in local.log.read_text()
    assert "api.bug" not in local.log.read_text()


def test_many_numbered_shards_and_many_patterns_are_no_work_for_the_event_loop(
    local: DaemonProcess, make_model: Model
) -> None:
    names = [f"s{number}-00001-of-09999.safetensors" for number in range(15)]
    model = make_model(files={"config.json": b"{}", **dict.fromkeys(names, b"x")})
    patterns = [f"*{number}*-?-{number}" for number in range(998)]
    with local.client() as client:
        with pytest.raises(ModelIncomplete, match=r"s[0-9]+-00002-of-09999"):
            client.pull(f"file://{model}", require="llm", exclude=patterns)
        assert client.pull(f"file://{model}", require="llm", exclude=["*-of-*"])


def test_a_held_model_is_looked_into_for_an_engine_online_and_offline(local: DaemonProcess, make_model: Model) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"w", **{f"d{n}/{n}.json": b"{}" for n in range(50)}}
    model = make_model(files=files)
    with local.client() as client:
        client.pull(f"file://{model}")
        assert client.pull(f"file://{model}", require="llm").hit
        assert client.pull(f"file://{model}", require="llm", offline=True).hit


def test_long_patterns_are_not_written_down(local: DaemonProcess, make_model: Model) -> None:
    model = make_model()
    patterns = [f"{number:03}-{'x' * 90}" for number in range(150)]
    with local.client() as client:
        first = client.pull(f"file://{model}", exclude=patterns)
        assert client.pull(f"file://{model}", exclude=list(reversed(patterns))).hit
        assert client.pull(f"file://{model}", exclude=patterns[1:]).digest == first.digest
    for name in (f"snapshots/{first.digest.removeprefix('sha256:')}.json", "index.db", "index.db-wal"):
        assert b"x" * 90 not in (local.root / name).read_bytes()
    assert "x" * 90 not in local.log.read_text()
    with local.client() as client:
        assert client.path(f"file://{model}", exclude=patterns).hit


def test_a_key_names_the_place_whatever_the_patterns_and_can_be_fetched_again() -> None:
    long = ModelRef.parse("org/name@v1", include=["x" * 600, "*.json"], lean=True)
    key = long.key
    assert len(key) < 200
    assert key != ModelRef.parse("org/name@v1", include=["x" * 600], lean=True).key
    assert key != ModelRef.parse("org/name@v1", include=[*ModelRef.from_key(key).include], lean=True).key
    again = ModelRef.from_key(key, ["a[1].json", "b*"])
    assert (again.uri, again.revision, again.lean) == ("hf://org/name", "v1", True)
    assert [path for path in ("a[1].json", "b*", "a1.json", "bx") if again.selects(path)] == ["a[1].json", "b*"]


def test_what_earlier_versions_wrote_long_patterns_out_for_is_still_known() -> None:
    long = ModelRef.parse("org/name", exclude=["y" * 600])
    assert f'["hf://org/name",null,[],["{"y" * 600}"]]' in long.keys
