"""A machine that lacks a program leaves out the tests that need it, says so, and is green."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests import programs

_TESTS = Path(__file__).parent
_A_TEST = """
from tests.programs import program

def test_it():
    program("strace")

def test_another():
    pass
"""


def test_who_needs_a_program_that_is_missing_is_left_out_and_names_its_package(tmp_path: Path) -> None:
    (tmp_path / "test_needs.py").write_text(_A_TEST)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary  # noqa: F401\n")
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(_TESTS.parent)}
    command = [
        sys.executable,
        "-c",
        _WITHOUT,
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    said = done.stdout.strip().splitlines()
    assert "Left out: 1 tests: 1 because strace is missing: it is in the package strace." in said


_WITHOUT = """
import sys, pytest, tests.programs
tests.programs.PATH = "/nowhere"
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_no_test_starts_such_a_program_without_asking() -> None:
    for path in _TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path != Path(programs.__file__) else ():
            first = node.elts[:1] if isinstance(node, ast.List | ast.Tuple) else []
            named = {each.value for each in first if isinstance(each, ast.Constant) and isinstance(each.value, str)}
            assert not programs.PACKAGES.keys() & named, f"{path}: {ast.unparse(node)}"
