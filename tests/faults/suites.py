"""Every suite. To add one: a function from a Context to a Tally, and a line here."""

from __future__ import annotations

from tests.faults.controls import PROOFS
from tests.faults.machine import SUITE as MACHINE
from tests.faults.pressure import SUITE as PRESSURE
from tests.faults.replay import REPLAYS
from tests.faults.sqlite_damage import SUITE as SQLITE
from tests.faults.suite import Suite
from tests.faults.sweeps import HALVES, SWEEPS

SUITES: list[Suite] = [*SWEEPS, *REPLAYS, *HALVES, *PROOFS, SQLITE, MACHINE, PRESSURE]
