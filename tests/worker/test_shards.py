"""Which shards are missing: found without more steps than there are files, whatever their names promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cached import ModelIncomplete
from cached.model_ref import ModelRef
from cached.worker import shards
from cached.worker.shards import absent_numbers, refuse_absent, shards_of

INDEX = "model.safetensors.index.json"


class Asked(frozenset[str]):
    """Counts what is looked up."""

    count = 0

    def __contains__(self, name: object) -> bool:
        Asked.count += 1
        return super().__contains__(name)


def test_the_first_missing_shard_ends_the_search() -> None:
    paths = Asked({f"s{number}-00001-of-99999.safetensors" for number in range(1000)})
    Asked.count = 0
    assert next(absent_numbers(paths)).endswith("-00002-of-99999.safetensors")
    assert Asked.count < 10


def test_each_promise_is_looked_into_once_however_many_files_make_it() -> None:
    paths = Asked({f"model-{number:05}-of-09999.safetensors" for number in range(1, 9999)})
    Asked.count = 0
    assert list(absent_numbers(paths)) == ["model-09999-of-09999.safetensors"]
    assert Asked.count < 10_010


def test_absent_shards_that_nobody_wants_are_looked_at_so_many_times_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ModelRef, "selects", lambda ref, path: bool(asked.append(path)))
    promised = absent_numbers({f"s{number}-00001-of-99999.safetensors" for number in range(15)})
    refuse_absent(ModelRef("hf://org/name"), promised, "its shards are numbered, which promises")
    assert len(asked) == shards.MAX_SHARDS


def test_shards_of_an_index_are_those_that_the_patterns_take(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}})
    )
    ref = ModelRef.parse("org/name", exclude=["two*"])
    assert shards_of(ref, INDEX, index) == ("one.safetensors",)


@pytest.mark.parametrize(
    "named",
    [[f"{number}" for number in range(shards.MAX_SHARDS + 1)], ["x" * 2000], [""], [3], [None]],
    ids=["too many", "too long", "empty", "a number", "nothing"],
)
def test_an_index_that_names_what_no_file_can_be_is_none(tmp_path: Path, named: list[object]) -> None:
    index = tmp_path / "index"
    index.write_text(json.dumps({"weight_map": dict(enumerate(named))}))
    with pytest.raises(ModelIncomplete, match="is no index of shards"):
        shards_of(ModelRef.parse("org/name"), INDEX, index)


def test_an_index_that_is_too_large_is_left_to_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_INDEX", 10)
    (tmp_path / "index").write_text("x" * 11)
    assert shards_of(ModelRef.parse("org/name"), INDEX, tmp_path / "index") == ()
