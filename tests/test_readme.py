"""The README is a contract: what it names exists, and what exists is named."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

import cached
from cached.cli.main import app
from cached.client.client import Client, Lease
from cached.config import Config, Duration, Size
from cached.errors import BY_CODE
from serve_integration.settings import Settings

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text()
COMMANDS = set(getattr(typer.main.get_command(app), "commands"))  # noqa: B009 (a group's; mypy sees a command)
TARGETS = set(re.findall(r"^([a-z-]+):", (FOLDER / "Makefile").read_text(), re.MULTILINE))


def section(heading: str) -> str:
    """What is below `## heading`, up to the next of its rank."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {heading!r}"
    return found[1]


def rows(heading: str, head: str = "") -> list[list[str]]:
    """The cells of a section's tables, or of the one whose head begins so, without head and rule."""
    text = section(heading)
    if head:
        text = text[text.index(f"\n| {head} |") + 1 :].partition("\n\n")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [row for row in cells if not row[0].startswith("---")][1:]


def spoken(text: str, default: object) -> object:
    """A default as the table writes it, in the setting's own type."""
    text = text.strip("`")
    if isinstance(default, Size | Duration):
        return type(default).parse(text)
    if isinstance(default, bool):
        return {"true": True, "false": False}[text]
    if isinstance(default, tuple):
        return tuple(filter(None, text.split(", ")))
    if isinstance(default, dict):
        return text or {}
    kind: Callable[[str], object] = type(default)
    return kind(text)


def test_every_setting_has_a_row_with_its_true_default() -> None:
    table = {row[0].strip("`"): row[1] for row in rows("Settings")}
    defaults = {item.name: getattr(Config(), item.name) for item in dataclasses.fields(Config)}
    assert {name: spoken(table[name], defaults[name]) for name in table} == defaults


def test_every_setting_says_what_it_is_for() -> None:
    assert all(len(row) == 3 and row[2] for row in rows("Settings"))


def test_every_option_of_the_ray_integration_has_a_row_with_its_true_default() -> None:
    table = {row[0].strip("`"): row[1].strip("`") for row in rows("Quick starts", "option")}
    assert table == {field.name: str(getattr(Settings(), field.name) or "") for field in dataclasses.fields(Settings)}


def test_every_exit_code_of_an_error_has_a_row() -> None:
    codes = {int(code) for row in rows("Exit codes") for code in row[0].split(", ")}
    assert {0, *(kind.exit_code for kind in BY_CODE.values())} <= codes


def test_every_error_is_in_the_tree() -> None:
    api = section("Python API")
    assert [kind.__name__ for kind in BY_CODE.values() if not re.search(rf"\b{kind.__name__}\b", api)] == []


def test_the_table_of_commands_is_the_command() -> None:
    assert {row[0].split()[1].strip("`") for row in rows("The command")} == COMMANDS


def test_every_command_that_the_text_types_exists() -> None:
    typed = set(re.findall(r"(?:^    |`|\$\()cached ([a-z]+)", README, re.MULTILINE))
    assert typed and typed <= COMMANDS


def test_every_make_target_that_the_text_names_exists() -> None:
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= TARGETS


def test_every_make_target_is_explained() -> None:
    assert {row[0].strip("`").removeprefix("make ") for row in rows("Working on it")} == TARGETS - {"help"}


def test_the_two_commands_come_before_everything_else() -> None:
    opening = README.partition("\n## ")[0]
    assert "\n    make demo" in opening and "\n    make test" in opening


@pytest.mark.parametrize(("kind", "name"), [(Client, "client"), (Lease, "lease")])
def test_every_member_that_the_text_names_exists(kind: type, name: str) -> None:
    named = set(re.findall(rf"\b{name}\.([a-z_]+)", section("Python API"))) - {"py"}
    # A frozen or slotted class shows attributes in its annotations, others only in the constructor.
    known = (
        set(dir(kind)) | set(inspect.get_annotations(kind)) | set(re.findall(r"self\.(\w+)", inspect.getsource(kind)))
    )
    assert named and named <= known


def test_the_signature_of_acquire_is_the_true_one() -> None:
    found = re.search(r"`client\.acquire\((uri, .*?)\)`", section("Python API"), re.DOTALL)
    assert found
    written = [part.split("=")[0].strip() for part in re.sub(r"\(\)", "", found[1]).split(",")]
    assert written == ["*" if parameter == "*" else parameter for parameter in _signature(Client.acquire)]


def _signature(function: object) -> list[str]:
    """Parameter names in order, with the `*` that begins the keyword-only ones, without self."""
    names: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    return names


def test_what_users_import_is_there() -> None:
    for name in re.findall(r"^from cached import (.*)$", README, re.MULTILINE):
        assert all(hasattr(cached, part.strip()) for part in name.split(","))


def test_every_linked_file_and_heading_exists() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (target[1:] in headings) if target.startswith("#") else (FOLDER / target).exists(), target


def test_rooms_that_the_text_draws_exist() -> None:
    drawn = re.findall(
        r"^    {2,4}(\w+/)|^    (\w+/)", section("Architecture").partition("### The way")[0], re.MULTILINE
    )
    top = [outer for _, outer in drawn if outer]
    inner = [name for name, _ in drawn if name]
    assert top and all((FOLDER / name).is_dir() for name in top)
    assert inner and all((FOLDER / "cached" / name).is_dir() for name in inner)
