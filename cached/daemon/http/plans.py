"""The answers to `pull --dry-run`."""

from __future__ import annotations

from typing import Any

from cached.daemon.acquire.request import Ask, Held
from cached.daemon.http.admin import removed, unnamed
from cached.daemon.space.disk import Disk
from cached.daemon.space.reservation import Plan


def held_body(held: Held, ask: Ask) -> dict[str, Any]:
    """Return the answer when nothing would be fetched."""
    return {
        "source": str(ask.ref),
        "revision": held.known.revision,
        "root": str(held.disk.root),
        "size": held.known.size,
        "files": held.known.files,
        "fetch_bytes": 0,
        "fetch_files": 0,
        "fits": True,
        "reason": None,
        "evict": [],
    }


def plan_body(disk: Disk, plan: Plan, named: bool) -> dict[str, Any]:
    """Return the plan as an answer. Unless victims are to be `named`, only their sizes and reasons are given."""
    needs = plan.needs
    return {
        "source": str(needs.listing.ref),
        "revision": needs.listing.revision,
        "root": str(disk.root),
        "size": needs.listing.size,
        "files": len(needs.listing.entries),
        "fetch_bytes": needs.missing,
        "fetch_files": len(needs.wants),
        "fits": plan.why is None,
        "reason": plan.why,
        "evict": [removed(victim) if named else unnamed(victim) for victim in plan.victims],
    }
