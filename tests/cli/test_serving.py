"""`serve`: what stops it before it is a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .command import Command, environment

WITHOUT_AIOHTTP = "import sys; sys.modules['aiohttp'] = None; from cached.cli.main import main; sys.exit(main())"


def test_a_bad_setting_exits_2_and_names_it(alone: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("limt = '1GiB'\n")
    answer = alone("serve", "--config", str(file), "--json")
    assert answer.returncode == 2 and "'limt'" in answer.stderr and answer.stderr.count("\n") == 1
    assert json.loads(answer.stdout)["error"]["code"] == "invalid_config"


def test_a_missing_config_file_exits_2(alone: Command, tmp_path: Path) -> None:
    answer = alone("serve", "--config", str(tmp_path / "none.toml"))
    assert answer.returncode == 2 and "none.toml" in answer.stderr


def test_a_bad_address_exits_2(alone: Command, tmp_path: Path) -> None:
    answer = alone("serve", "--root", str(tmp_path), "--listen", "everywhere")
    assert answer.returncode == 2 and "'listen'" in answer.stderr


def test_without_the_daemon_extra_it_says_what_to_install(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_AIOHTTP, "serve", "--root", str(tmp_path / "root")],
        env=environment(tmp_path / "s.sock"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1 and answer.stdout == ""
    assert answer.stderr == (
        "cached: The daemon cannot start because aiohttp is not installed: pip install 'model-cached[daemon]'.\n"
    )
