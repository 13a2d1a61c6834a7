"""A working user and three hostile ones on one node, for a while: what came of it, and which promises were broken."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cached import CachedError
from tests.soak.half_core import HalfCore
from tests.soak.plan import HOSTILE, Plan
from tests.soak.program import Program
from tests.soak.site import Site, site
from tests.soak.watch import KINDS, Sample, Watch, wait_until

START_SECONDS = 60.0
END_SECONDS = 90.0  # What the working user may still wait for when it is over, and the looks at what is left.
# What the daemon may grow to, whatever the users do: beyond what it has at rest, and in all.
GROWTH = Sample(memory=200 << 20, descriptors=1500, index=16 << 20, log=1 << 62)
RESIDENCY = 600.0  # Of an hour; of less a sixth, so that most of the working user's models are older at the end.
LOG_RATE = 20 << 10  # Bytes per second that it may write: a log grows with what happens.
FLAT = Sample(memory=24 << 20, descriptors=100, index=1 << 20, log=1 << 62)  # From the middle to the end.


@dataclass(frozen=True)
class Outcome:
    plan: Plan
    held: str  # How the hostile users were held to half a core.
    hits: Mapping[str, Any]
    pulls: Mapping[str, Any]
    bare: Mapping[str, float]  # What the machine itself takes for an exchange over a socket.
    tricks: Counter[str]
    leaks: list[str]
    troubles: list[str]  # Of those who did no more than be many.
    watch: Watch
    reasons: list[str]  # What the daemon says of what it evicted of the working user's.
    status: Mapping[str, Any]  # The daemon's own, at the end; empty if it did not answer.
    bugs: int  # Tracebacks in its log.

    def broken(self) -> list[str]:
        """A sentence for each promise that was not kept; timing is not among them."""
        found = [f"read by others: {leak}" for leak in dict.fromkeys(self.leaks)]
        found += [f"evicted: {reason}" for reason in self.reasons]
        for what in (self.hits, self.pulls):
            found += [f"{count} times: {trouble}" for trouble, count in what["troubles"].items()]
        found += self.troubles
        if self.pulls["arrived"] < self.pulls["asked"] or not self.pulls["asked"]:
            found.append(f"only {self.pulls['arrived']} of {self.pulls['asked']} new models arrived")
        if not self.hits["hits"]:
            found.append("there was no hit at all")
        if self.watch.died or not self.status.get("healthy"):
            found.append(f"the daemon is not well: {self.status.get('reason') or 'it does not answer'}")
        if self.bugs:
            found.append(f"{self.bugs} tracebacks in the daemon's log")
        return found + self._grown()

    def _grown(self) -> list[str]:
        if not self.watch.samples:
            return ["nothing is known of the daemon's size"]
        start, middle, end = (self.watch.around(share) for share in (0.0, 0.5, 1.0))
        found = []
        if end["log"] - start["log"] > LOG_RATE * self.plan.seconds:
            found.append(f"the log grew by {end['log'] - start['log']:,} bytes")
        for kind in KINDS:
            if end[kind] - start[kind] > getattr(GROWTH, kind):
                found.append(f"{kind} grew from {start[kind]:,} to {end[kind]:,}")
            elif self.plan.seconds >= 600 and end[kind] - middle[kind] > getattr(FLAT, kind):
                found.append(f"{kind} still grew in the second half, from {middle[kind]:,} to {end[kind]:,}")
        return found

    def report(self) -> str:
        hits, pulls = self.hits, self.pulls
        sizes = [self.watch.around(share) for share in (0.0, 0.5, 1.0)] if self.watch.samples else []
        lines = [
            f"{self.plan.seconds:.0f} s, seed {self.plan.seed}; hostile users held to half a core {self.held}",
            f"hits: {hits['hits']}, p50 {hits['p50'] * 1000:.2f} ms, p99 {hits['p99'] * 1000:.2f} ms, "
            f"p99.9 {hits['p999'] * 1000:.1f} ms, longest {hits['max'] * 1000:.0f} ms",
            f"beside them, a bare exchange over a socket: p50 {self.bare['p50'] * 1000:.2f} ms, "
            f"p99 {self.bare['p99'] * 1000:.2f} ms, p99.9 {self.bare['p999'] * 1000:.1f} ms",
            f"new models: {pulls['arrived']} of {pulls['asked']} arrived, the slowest after {pulls['slowest']:.1f} s",
            f"evicted of the working user's: {len(self.reasons)}",
            f"read of it by others: {len(self.leaks)}",
            *(f"{kind}: " + " → ".join(f"{size[kind]:,}" for size in sizes) for kind in KINDS),
            "tried: " + ", ".join(f"{name} {count}" for name, count in sorted(self.tricks.items())),
        ]
        return "\n".join(lines)


def run(seconds: float, seed: int, only: Sequence[str] = ()) -> Outcome:
    """Everything that it starts has ended when it returns or raises."""
    plan = Plan("", "", seed, seconds, 0.0, max(2.0, min(15.0, seconds / 30)), only)
    with (
        site(plan.new_models, min(RESIDENCY, seconds / 6)) as here,
        HalfCore() as half,
        contextlib.ExitStack() as stack,
    ):
        plan = replace(plan, socket=str(here.daemon.socket), root=str(here.daemon.root))
        base = Program(stack, here, here.work, "working", "base")
        base.begin(plan)
        assert base.answer(START_SECONDS), "the working user has its models"
        here.daemon.workers()  # All have started, and their memory counts as what is there at rest.
        working = [Program(stack, here, here.work, "working", role) for role in ("hits", "pulls")]
        bare = Program(stack, here, here.work, "bare")
        hostile = [Program(stack, here, here.evil, "hostile", str(uid)) for uid in HOSTILE]
        hostile += [Program(stack, here, here.evil, "crowd")] if plan.tries("crowd") else []
        for program in hostile:
            half.add(program.pid)
        plan = replace(plan, until=time.time() + seconds)
        watch = stack.enter_context(Watch(here.daemon))
        for program in (*working, bare, *hostile):
            program.begin(plan)
        wait_until(plan.until, lambda: (here.hub.requests.clear(), here.s3.requests.clear()))
        deadline = time.monotonic() + END_SECONDS
        evil = [said for program in hostile if (said := program.answer(deadline - time.monotonic()))]
        hits, pulls = (program.answer(deadline - time.monotonic()) or _SILENT for program in working)
        exchange = bare.answer(deadline - time.monotonic()) or dict.fromkeys(("p50", "p99", "p999"), 0.0)
        tricks = sum((Counter(each["tricks"]) for each in evil), Counter[str]())
        leaks = [leak for each in evil for leak in each["leaks"]]
        troubles = [trouble for each in evil for trouble in each.get("troubles", ())]
        reasons = [_became(here, uri) for uri in (*hits["lost"], *pulls["lost"])]
        bugs = here.daemon.log.read_text(errors="replace").count("Traceback (most recent call last)")
        return Outcome(
            plan, half.how, hits, pulls, exchange, tricks, leaks, troubles, watch, reasons, _status(here), bugs
        )


_SILENT: Mapping[str, Any] = {
    **dict.fromkeys(("hits", "p50", "p99", "p999", "max", "asked", "arrived", "slowest"), 0),
    "lost": [],
    "troubles": {"the working user never came to an end": 1},
}


def _became(here: Site, uri: str) -> str:
    """What became of a model that is not here any more."""
    return " ".join([uri, *here.daemon.cli("show", uri).stdout.splitlines()])


def _status(here: Site) -> dict[str, Any]:
    with contextlib.suppress(CachedError):
        return here.daemon.status()
    return {}
