"""Match shell patterns as `fnmatch.fnmatchcase` does, many at once, at a cost that no pattern and no name can drive up.

`fnmatch` compiles each pattern to a regular expression, in a time that grows with the square of its length, and tries
them one by one. Here plain names, prefixes and suffixes are compared as text. All other patterns are matched together
in one pass over the name: bit i of a number says that the letters so far can match the first i parts of the patterns
laid end to end (the bit-parallel automaton of Baeza-Yates and Gonnet, Communications of the ACM 35(10), 1992). So a
letter costs a few operations on a number with as many bits as the patterns have parts, whatever the patterns are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_LETTERS = 1024  # Distinct letters whose masks are remembered: two KiB each for the longest patterns.

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Letters:
    """The set of letters that `?`, `[…]` or `[!…]` matches."""

    single: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()
    others: bool = False  # It matches the letters that it does not name.

    def __contains__(self, letter: str) -> bool:
        named = letter in self.single or any(low <= letter <= high for low, high in self.ranges)
        return named != self.others

    @property
    def cost(self) -> int:
        return 1 + len(self.ranges)


ANY = Letters(others=True)
Part = str | Letters | None  # One letter, one of a set, or (None) any number of any letters: `*`.


class Globs:
    """A set of patterns, compiled once. Safe to use from several threads."""

    def __init__(self, patterns: Iterable[str]) -> None:
        names, beginnings, ends, others = set(), set(), set(), []
        for pattern in patterns:
            plain = pattern.strip("*")
            if not _WILD.isdisjoint(plain) or (pattern.startswith("*") and pattern.endswith("*") and plain):
                others.append(pattern)
            elif pattern.startswith("*"):
                ends.add(plain)
            elif pattern.endswith("*"):
                beginnings.add(plain)
            else:
                names.add(pattern)
        self._names, self._beginnings, self._ends = frozenset(names), tuple(beginnings), tuple(ends)
        self._automaton = _Automaton(others) if others else None

    def match(self, name: str) -> bool:
        """Return True if a pattern matches the complete name."""
        if name in self._names or name.startswith(self._beginnings) or name.endswith(self._ends):
            return True
        return self._automaton is not None and self._automaton.match(name)


class _Automaton:
    def __init__(self, patterns: Iterable[str]) -> None:
        starts, ends, stars, at = [], [], [], 0
        letters: dict[str, list[int]] = {}
        self._sets: list[tuple[int, Letters]] = []
        for pattern in patterns:
            starts.append(at)
            for part in parts(pattern):
                if part is None:
                    stars.append(at)
                elif isinstance(part, str):
                    letters.setdefault(part, []).append(at)
                    at += 1
                else:
                    self._sets.append((at, part))
                    at += 1
            ends.append(at)
            at += 1
        self._starts, self._ends, self._stars = _bits(starts), _bits(ends), _bits(stars)
        self._plain = {letter: _bits(where) for letter, where in letters.items()}
        self._masks: dict[str, int] = {}

    def match(self, name: str) -> bool:
        state, masks, stars = self._starts, self._masks, self._stars
        for letter in name:
            mask = masks.get(letter)
            if mask is None:
                mask = self._mask(letter)
            state = (state & mask) << 1 | (state & stars)
            if not state:
                return False
        return state & self._ends != 0

    def _mask(self, letter: str) -> int:
        """Return the number with a bit set for each part that matches the letter."""
        mask = self._plain.get(letter, 0) | _bits([at for at, taken in self._sets if letter in taken])
        if len(self._masks) >= MAX_LETTERS:
            self._masks = {}
        self._masks[letter] = mask
        return mask


def _bits(where: list[int]) -> int:
    """Return the number in which these bits are set. Setting them one by one would copy the number each time."""
    octets = bytearray(max(where, default=0) // 8 + 1)
    for at in where:
        octets[at >> 3] |= 1 << (at & 7)
    return int.from_bytes(octets, "little")


def escape(name: str) -> str:
    """Return the pattern that matches this name alone."""
    return "".join([f"[{letter}]" if letter in _WILD else letter for letter in name])


def parts(pattern: str) -> Iterator[Part]:
    """Yield the parts of a pattern in order. A `[` that no `]` closes is a letter."""
    at, last = 0, pattern.rfind("]")
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            yield None
        elif letter == "?":
            yield ANY
        elif letter == "[" and (end := _end(pattern, at, last)) is not None:
            yield _letters(pattern[at:end])
            at = end + 1
        else:
            yield letter


def _end(pattern: str, at: int, last: int) -> int | None:
    """Return the index of the `]` that closes the set beginning at `at`; None if there is none. A `]` at its start, or
    right after `!`, is an ordinary letter."""
    at += pattern.startswith("!", at)
    at += pattern.startswith("]", at)
    return pattern.index("]", at) if at <= last else None


def _letters(text: str) -> Letters:
    """Parse the text between the brackets. A hyphen between two letters makes a range; a range that is empty matches
    nothing. A set that is empty altogether matches nothing, or with `!` anything."""
    pieces = _pieces(text)
    for number in range(len(pieces) - 1, 0, -1):
        if pieces[number - 1][-1] > pieces[number][0]:
            pieces[number - 1 : number + 1] = [pieces[number - 1][:-1] + pieces[number][1:]]
    others = pieces[0].startswith("!")
    if others:
        pieces[0] = pieces[0][1:]
    ranges = tuple((low[-1], high[0]) for low, high in itertools.pairwise(pieces))
    return Letters(frozenset("".join(pieces)), ranges, others)


def _pieces(text: str) -> list[str]:
    """Split the text at each hyphen that may make a range."""
    found, at = [], 0
    look = 2 if text.startswith("!") else 1
    while (hyphen := text.find("-", look)) >= 0:
        found.append(text[at:hyphen])
        at, look = hyphen + 1, hyphen + 3
    if text[at:]:
        return [*found, text[at:]]
    return [*found[:-1], f"{found[-1]}-"]
