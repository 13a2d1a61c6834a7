"""What `pull --dry-run` answers with."""

from __future__ import annotations

from typing import Any

from cached.daemon.acquire.request import Ask, Held
from cached.daemon.http.admin import removed, unnamed
from cached.daemon.space.disk import Disk
from cached.daemon.space.reservation import Plan


def held_body(held: Held, ask: Ask) -> dict[str, Any]:
    """When nothing would be fetched."""
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
    """Of victims that are not to be `named` only their sizes."""
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
