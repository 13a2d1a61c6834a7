"""Each package opens with an essay: what it promises, who may call it, and what is in which file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
PACKAGES = sorted({path.parent for root in ("cached", "serve_integration") for path in (HERE / root).rglob("*.py")})
MOST = 16  # Files in one of them.


def essay(package: Path) -> str:
    return ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""


def modules(package: Path) -> set[str]:
    return {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(HERE)))
def test_an_essay_names_every_file_of_its_package_and_none_that_is_not_there(package: Path) -> None:
    named = set(re.findall(r"(?<![\w/])(\w+)\.py\b", essay(package)))
    assert named == modules(package)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(HERE)))
def test_a_package_can_be_taken_in_at_a_glance(package: Path) -> None:
    assert len(modules(package)) <= MOST
