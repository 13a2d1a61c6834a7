"""Patterns: what they take is what huggingface_hub's do, and what they cost nobody can drive up."""

from __future__ import annotations

import fnmatch
import re
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cached import globs
from cached.globs import Globs, Letters, parts

warnings.filterwarnings("ignore", category=FutureWarning)  # `re` on sets that look nested to it.

LETTERS = "ab-]![^*?\\&|~/.\n"
patterns = st.text(LETTERS, max_size=9)


def _fnmatch(name: str, pattern: str) -> bool:
    return re.match(fnmatch.translate(pattern), name) is not None


@settings(max_examples=2000, deadline=None)
@given(st.text("ab-]!^/\n[\\", max_size=6), patterns)
@example("b", "[b-a!c]")
@example("a", "[!b-a]")
@example("-", "[a-]")
@example("]", "[]-a]")
def test_one_pattern_takes_what_fnmatch_takes(name: str, pattern: str) -> None:
    assert Globs([pattern]).match(name) == _fnmatch(name, pattern)


@settings(max_examples=500, deadline=None)
@given(st.text("ab/", max_size=6), st.lists(st.text("ab/*?[]!-", max_size=6), max_size=6))
def test_several_patterns_take_what_one_of_them_takes(name: str, several: list[str]) -> None:
    assert Globs(several).match(name) == any(_fnmatch(name, pattern) for pattern in several)


@settings(max_examples=500, deadline=None)
@given(st.characters(), st.text(st.characters(exclude_characters="]"), min_size=1, max_size=6))
def test_sets_of_any_letters_are_read_as_fnmatch_reads_them(letter: str, inside: str) -> None:
    assert Globs([f"[{inside}]"]).match(letter) == _fnmatch(letter, f"[{inside}]")


class _Counted(int):
    """A number that counts what is done with numbers."""

    done = 0

    def __and__(self, other: int) -> _Counted:
        _Counted.done += 1
        return _Counted(int(self) & int(other))

    def __or__(self, other: int) -> _Counted:
        _Counted.done += 1
        return _Counted(int(self) | int(other))

    def __lshift__(self, other: int) -> _Counted:
        _Counted.done += 1
        return _Counted(int(self) << int(other))

    __rand__, __ror__ = __and__, __or__


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 500 + "b", "*" + "a" * 500 + "b", "*a?" * 300 + "b", "*[a-z]" * 150 + "b", "*" * 1000 + "x*" * 12],
    ids=lambda pattern: pattern[:8],
)
def test_each_letter_of_a_name_costs_the_same_few_steps_whatever_the_patterns(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = globs._bits
    monkeypatch.setattr(globs, "_bits", lambda where: _Counted(bits(where)))
    for several in (1, 16):
        found = Globs([f"{pattern}{number}?" for number in range(several)])
        found.match("a" * 10)  # The masks are made now.
        _Counted.done = 0
        assert not found.match("a" * 1000)
        assert _Counted.done <= 4 * 1000 + 1


@pytest.mark.parametrize("pattern", ["[" * 1024, "[!" * 512, "[]" * 512, "[a" * 512, "[a-" * 340, "[-" * 511 + "]]"])
def test_a_pattern_of_brackets_is_read_once_from_end_to_end(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    class Read(str):
        """Counts the letters that are looked at."""

        def index(self, *wanted: object) -> int:  # type: ignore[override]
            nonlocal read
            found = super().index(*wanted)  # type: ignore[arg-type]
            read += found - int(wanted[1]) + 1  # type: ignore[call-overload]
            return found

    list(parts(Read(pattern)))
    assert read <= 2 * len(pattern)


def test_masks_of_many_letters_are_not_all_remembered() -> None:
    found = Globs(["*[!x]*y"])
    for number in range(0x4E00, 0x4E00 + 3 * globs.MAX_LETTERS):
        assert found.match(f"{chr(number)}y")
    assert found._automaton is not None and len(found._automaton._masks) <= globs.MAX_LETTERS


def test_an_empty_range_takes_nothing_and_its_negation_anything() -> None:
    assert list(parts("[b-a]")) == [Letters()]
    assert not Globs(["[b-a]*?"]).match("ba")
    assert Globs(["[!b-a]*?"]).match("ba")
