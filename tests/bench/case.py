"""What a case is: a name, what it measures, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.report import Found


class LeftOut(Exception):
    """This machine lacks what the case needs; the text says what."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of the bench chose. `say` prints a line that is no result."""

    rounds: int = 3
    memory_gib: float = 20.0
    mend_gib: float = 8.0
    say: Callable[[str], None] = print


@dataclass(frozen=True, slots=True)
class Case:
    """`long`: only when it is asked for, as it takes minutes."""

    name: str
    measure: Callable[[Options], Found]
    long: bool = False
