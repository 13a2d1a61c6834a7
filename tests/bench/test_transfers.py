"""The transfer bench measures what it says it does, with models of a few hundred kilobytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import hub_case, s3_cases, transfers
from tests.bench.busy_case import hits_during_fill
from tests.bench.case import Case, Options
from tests.bench.data import scratch, write
from tests.bench.measure import program, run
from tests.bench.memory_case import peaks
from tests.bench.nginx import nginx_path
from tests.bench.picture import picture
from tests.bench.report import Found, as_json, table
from tests.bench.resume_case import killed_half_way
from tests.bench.verify_case import UNCHECKED, with_and_without

ONCE = Options(rounds=1)


def test_a_transfer_is_measured_for_every_client_and_shown_in_every_form(tmp_path: Path) -> None:
    found = s3_cases.beside_peers(tmp_path, "tiny", [300_000, 20], ("boto3", "raw sockets", "cp"), ONCE)
    assert not found.failed
    assert list(found.rows) == ["cached", "boto3", "raw sockets", "cp"]
    assert all(row["MB_per_s"] > 0 and row["peak_MB"] > 0 for row in found.rows.values())
    assert found.rows["boto3"]["cpu_s_per_GB"] > found.rows["cp"]["cpu_s_per_GB"]
    assert json.loads(json.dumps(as_json(found)))["rows"] == found.rows
    assert all(name in table(found) for name in found.rows)
    drawn = ElementTree.fromstring(picture([found]))
    assert len(drawn.findall("{*}rect")) == 1 + 2 * len(found.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["origin"], "what was fetched is removed"


@pytest.mark.skipif(nginx_path() is None, reason="nginx is not installed")
def test_a_transfer_from_the_hub_is_measured_too(tmp_path: Path) -> None:
    found = hub_case.beside_peers(tmp_path, "tiny", [300_000, 20_000], ONCE)
    assert not found.failed
    assert {"cached", "hf", "hf_transfer", "cp"} <= set(found.rows)


def test_the_memory_of_the_bench_is_not_taken_for_the_clients() -> None:
    ballast = bytearray(b"x") * (100 << 20)
    assert run(["true"], {}).peak < 50e6 < len(ballast)


def test_a_program_that_stops_early_is_not_timed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="only 0 are there"):
        program(["true"], tmp_path, 10, {})
    with pytest.raises(RuntimeError, match="sorry"):
        run([sys.executable, "-c", "raise SystemExit('sorry')"], {})


def test_a_daemon_without_checks_answers_too(tmp_path: Path) -> None:
    found = with_and_without(tmp_path, "tiny", [20 << 20, 20], ONCE)
    assert list(found.rows) == ["cached", UNCHECKED]
    assert all(0 < row["after_last_byte_ms"] < 60_000 for row in found.rows.values())


def test_a_killed_daemon_is_started_again_and_its_bytes_are_counted(tmp_path: Path) -> None:
    found = killed_half_way(tmp_path, "tiny", [8 << 20] * 8, ONCE, bandwidth="40MiB")
    before, after = (row["fetched_MB"] for row in found.rows.values())
    assert 33 < before < 67
    assert after > 0


def test_hits_during_a_fill_are_counted(tmp_path: Path) -> None:
    found = hits_during_fill(tmp_path, "tiny", [20 << 20], ONCE)
    assert all(row["hits"] > 0 and row["p99_ms"] >= row["p50_ms"] > 0 for row in found.rows.values())


def test_memory_has_a_row_for_each_size(tmp_path: Path) -> None:
    assert len(peaks(tmp_path, (4 << 20, 16 << 20)).rows) == 2


def test_a_case_that_fails_spares_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(options: Options) -> Found:
        with scratch(0) as folder:
            write(folder / "origin", [10])
            left.append(folder)
            raise RuntimeError("no server")

    left: list[Path] = []
    sound = Case("sound", lambda options: Found("sound", 1, {"cached": {"MB_per_s": 5.0}}))
    monkeypatch.setattr(transfers, "CASES", {"broken": Case("broken", broken), "sound": sound})
    assert transfers.main(["--json", "--picture", str(tmp_path / "bars.svg")]) == 1
    out, err = capsys.readouterr()
    assert list(json.loads(out)["cases"]) == ["sound"]
    assert "broken failed: no server" in err
    assert (tmp_path / "bars.svg").stat().st_size < 20_000
    assert not left[0].exists()
