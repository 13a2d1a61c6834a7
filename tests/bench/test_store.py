"""The bench of the store measures what it says it does, with a few models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import store
from tests.bench.case import Case, Options
from tests.bench.hostile_case import ATTACKS, attacked
from tests.bench.report import Found, table
from tests.bench.scale_case import grown


def test_many_models_are_measured_beside_one(tmp_path: Path) -> None:
    found = grown(tmp_path, (1, 20), Options(rounds=1), hits=20, settle=0.1)
    assert list(found.rows) == ["1 models of 10 files", "20 models of 10 files"]
    named = {"rebuilt_s", "start_s", "resident_MB", "ls_s", "ls_json_s", "p50_ms", "p99_ms"}
    assert all(set(row) == named and min(row.values()) > 0 for row in found.rows.values())
    assert all(name in table(found) for name in found.rows)


def test_hits_are_measured_under_each_attack(tmp_path: Path) -> None:
    found = attacked(tmp_path, 200, 0.2, Options(rounds=1))
    assert list(found.rows) == ["idle", *ATTACKS]
    assert all(row["hits"] > 0 and row["most_ms"] >= row["p99_ms"] for row in found.rows.values())


def test_what_fails_is_said_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: Options) -> Found:
        raise RuntimeError("no luck")

    good = Found("good", 1, {"ours": {"start_s": 1.5}})
    cases = {
        "bad": Case("bad", fail),
        "good": Case("good", lambda options: good),
        "long": Case("long", fail, long=True),
    }
    monkeypatch.setattr(store, "CASES", cases)
    assert store.main(["--json"]) == 1
    said = capsys.readouterr()
    assert list(json.loads(said.out)["cases"]) == ["good"] and "bad failed: no luck" in said.err
    assert store.main(["--case", "good"]) == 0
