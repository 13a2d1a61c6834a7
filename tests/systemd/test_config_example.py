"""The example file is the reference of every setting, so it must be complete and true."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from cached.config import Config
from cached.errors import ConfigError
from tests.systemd.unit import FOLDER

EXAMPLE = FOLDER / "config.toml"
NAMES = [item.name for item in dataclasses.fields(Config)]
# A setting that is off has its name right behind the `#`; prose has a blank there.
SETTING = re.compile(r"^#([a-z_]\w* = )", re.MULTILINE)


def test_the_example_as_shipped_changes_nothing() -> None:
    assert Config.load(EXAMPLE, environ={}) == Config()


def test_the_example_names_every_setting_once() -> None:
    named = Counter(found.removesuffix(" = ") for found in SETTING.findall(EXAMPLE.read_text()))
    assert named == Counter(NAMES)


def test_the_example_shows_the_true_defaults(tmp_path: Path) -> None:
    switched_on = tmp_path / "config.toml"
    switched_on.write_text(SETTING.sub(r"\1", EXAMPLE.read_text()))
    assert set(tomllib.loads(switched_on.read_text())) == set(NAMES)
    assert Config.load(switched_on, environ={}) == Config()


def test_every_setting_is_explained_right_above() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if SETTING.match(line):
            assert lines[number - 1].startswith("# "), f"nothing explains {line!r}"


def test_a_misspelt_setting_would_be_refused(tmp_path: Path) -> None:
    misspelt = tmp_path / "config.toml"
    misspelt.write_text(SETTING.sub(r"\1", EXAMPLE.read_text()).replace("keep_free", "keep_fre"))
    with pytest.raises(ConfigError, match="keep_fre"):
        Config.load(misspelt, environ={})
