"""What the unit promises, checked without booting anything."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from cached.config import Config
from tests.programs import program
from tests.systemd.unit import FOLDER, directives

UNIT = (FOLDER / "cached.service").read_text()


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with its program replaced by one that exists here; all else is as shipped."""
    copy = tmp_path / "cached.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT, flags=re.MULTILINE))
    return copy


def analyze(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), "--no-pager", *args],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def test_verify_finds_nothing_to_complain_about(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verify_would_complain_about_a_misspelt_directive(unit: Path) -> None:
    unit.write_text(UNIT.replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", str(unit)).stderr


def test_exposure_is_one_and_a_half_or_better(unit: Path) -> None:
    assert exposure(unit) <= 1.5


def test_exposure_would_rise_if_a_restriction_went(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert exposure(unit) > 1.5


@pytest.mark.parametrize(
    ("directive", "broken"),
    [
        ("PrivateUsers", "SO_PEERCRED would report nobody for every caller"),
        ("ProcSubset", "/proc/locks would be hidden"),
        ("ProtectProc", "the names of lease holders would be hidden"),
        ("PrivateNetwork", "no source could be reached"),
        ("IPAddressDeny", "neither could some sources, nor the metadata of instances at 169.254.169.254"),
        ("MemoryMax", "weights just written would leave the page cache"),
    ],
)
def test_restrictions_that_break_the_daemon_stay_off(directive: str, broken: str) -> None:
    assert directive not in directives(UNIT), broken


def test_paths_of_the_unit_are_the_defaults_of_the_config() -> None:
    found = directives(UNIT)
    assert Config().root == Path("/var/lib", *found["StateDirectory"])
    assert Config().socket.parent == Path("/run", *found["RuntimeDirectory"])
    assert found["StateDirectoryMode"] == ["0755"], "callers read models straight from the root"


def test_the_unit_outwaits_the_ten_seconds_that_the_daemon_may_take_to_stop() -> None:
    found = directives(UNIT)
    assert found["KillMode"] == ["mixed"]
    assert int(found["TimeoutStopSec"][0]) > 10


def test_only_the_main_process_may_say_ready() -> None:
    found = directives(UNIT)
    assert found["Type"] == ["notify"]
    assert found["NotifyAccess"] == ["main"]
    assert int(found["WatchdogSec"][0]) > 0


def test_a_missing_credential_cannot_stop_the_unit() -> None:
    """systemd leaves out a missing credential only if it was named without a slash."""
    places = dict(value.split(":") for value in directives(UNIT)["LoadCredential"])
    assert set(places) == {"hf_token", "aws_credentials", "gcp.json"}
    assert all("/" not in place for place in places.values())


def test_sysusers_makes_the_users_and_groups_that_unit_and_config_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "sysusers.conf")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    users = {line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert users == set(directives(UNIT)["User"])
    assert {*directives(UNIT)["Group"], Config().admin_group} <= groups


def test_tmpfiles_understands_every_line(tmp_path: Path) -> None:
    """Ownership by name needs the users of sysusers, so the copy asks for root's."""
    lines = (FOLDER / "tmpfiles.conf").read_text().replace(" cached cached ", " root root ")
    copy = tmp_path / "cached.conf"
    copy.write_text(lines)
    root = tmp_path / "root"
    root.mkdir()
    done = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={root}", str(copy)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / "var/lib/cached").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/credstore").stat().st_mode & 0o777 == 0o700


def test_the_analysis_names_no_unknown_setting(unit: Path) -> None:
    rows = json.loads(analyze("security", "--offline=true", "--json=short", str(unit)).stdout)
    assert {"NoNewPrivileges=", "ProtectSystem="} <= {row["name"] or row["json_field"] for row in rows}
