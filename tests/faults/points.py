"""What was tried, and what it broke."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

RULE = "rule"  # Not one of the invariants, but what FAULTS says must happen then: "hits keep working", "no such retry".
INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", RULE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant, and in a few words how it was broken."""

    invariant: str
    what: str


@dataclass(frozen=True, slots=True)
class Point:
    """One fault at one place: the `nth` call of that name that the scenario makes."""

    scenario: str
    fault: str
    nth: int
    call: str


@dataclass(frozen=True, slots=True)
class Violation:
    point: Point
    finding: Finding

    def __str__(self) -> str:
        at = self.point
        return f"{at.scenario} {at.fault} {at.nth} {at.call}: {self.finding.invariant} {self.finding.what}"


@dataclass(slots=True)
class Tally:
    """What one suite did. `unit` is what its points are: kill points, errors, power-loss states, controls."""

    row: str
    name: str
    unit: str
    points: int = 0
    violations: list[Violation] = field(default_factory=list)

    def add(self, point: Point, findings: list[Finding]) -> None:
        self.points += 1
        self.violations += [Violation(point, finding) for finding in findings]

    def count(self, invariant: str) -> int:
        return sum(each.finding.invariant == invariant for each in self.violations)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
