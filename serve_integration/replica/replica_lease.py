"""Leases for the life of a replica: in its own process, and in a small actor on every other node that it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from cached import CachedError, Client, DaemonUnavailable, Lease, SourceChanged
from cached.client.request import DEFAULTS, acquire_body
from serve_integration.models.model_source import Reference
from serve_integration.replica.acquire import Held, acquire
from serve_integration.replica.node_lease import Holder, node_name, on_node
from serve_integration.settings import Settings

# Held until this process ends. Not on the callback: Ray pickles that to other processes, and a lease stays in one.
_leases: list[Lease] = []
_holders: list[Holder] = []


class Hold:
    """A model that every node of a replica holds at one path, until `release`. The fields describe this node's copy."""

    def __init__(self, here: Held, leases: Sequence[Lease], holders: Sequence[Holder]) -> None:
        self.here, self.leases, self.holders = here, leases, holders
        self.path, self.digest, self.revision = here.path, here.digest, here.revision
        self.size, self.hit = here.size, here.hit

    def release(self) -> None:
        for lease in self.leases:
            lease.release()
        for holder in self.holders:
            holder.release()


def keep(taken: Hold) -> Held:
    """Hold the model until this process ends, and return this node's copy."""
    _leases.extend(taken.leases)
    _holders.extend(taken.holders)
    return taken.here


async def take(wanted: Reference, settings: Settings, other_nodes: Sequence[str], runtime_env: Any) -> Hold:
    """Hold the model here and on the other nodes, at one path. On an error nothing is held."""
    leases: list[Lease] = []
    holders: list[Holder] = []
    try:
        if other_nodes:
            holders += [Holder(node, runtime_env) for node in other_nodes]
            wanted, copies = await _hold_the_same(wanted, settings, holders, leases)
        else:
            copies = [await _hold_here(wanted, settings, leases)]
    except BaseException:
        for lease in leases:
            lease.release()
        for holder in holders:
            holder.release()
        raise
    for holder, copy in zip(holders, copies[1:], strict=True):
        holder.watch(wanted, settings, copy)
    return Hold(copies[0], leases, holders)


async def _hold_the_same(
    wanted: Reference, settings: Settings, holders: Sequence[Holder], leases: list[Lease]
) -> tuple[Reference, list[Held]]:
    """Return the reference that is held in the end, lean or complete, and every node's copy; this node's is the first,
    and its lease is added to `leases`. This node resolves a name that moves, for all nodes."""
    here = node_name(ray.get_runtime_context().get_node_id())
    theirs = await asyncio.to_thread(_as_this_node_sees_it, wanted, settings)
    copies = await _hold_everywhere(here, wanted, theirs, settings, holders, leases)
    if len({copy.digest for copy in copies}) > 1:
        copies = await _hold_again(here, wanted, copies[0].revision, settings, holders, leases)
        wanted = replace(wanted, lean=False)
        leases.pop(0).release()
    _check(wanted, [here, *(holder.node for holder in holders)], copies)
    return wanted, copies


async def _hold_again(
    here: str, wanted: Reference, revision: str, settings: Settings, holders: Sequence[Holder], leases: list[Lease]
) -> list[Held]:
    """Acquire again on every node, now, because the copies differ. A name that cannot be pinned was resolved at
    different times, or moved meanwhile. Or some nodes have the model complete and some lean: then acquire it complete,
    which a node that has it so would return for lean, too."""
    ours = replace(wanted, lean=False)
    theirs = ours.at(revision)
    settings = settings if theirs != ours else replace(settings, max_age=0)
    try:
        return await _hold_everywhere(here, ours, theirs, settings, holders, leases)
    except DaemonUnavailable:
        raise
    except CachedError as error:
        how = "whole" if wanted.lean else "again"
        raise type(error)(
            f"{error.message} It was asked for {how} on every node, because the nodes did not have the same of it."
        ) from error


def _as_this_node_sees_it(wanted: Reference, settings: Settings) -> Reference:
    """Return the reference at the revision that this node's daemon would serve; unchanged where it has none, or on an
    error."""
    if not wanted.moves:
        return wanted
    patterns = {"include": wanted.include or settings.include, "exclude": settings.exclude, "lean": wanted.lean}
    try:
        with Client(settings.socket) as client:
            body = acquire_body(
                wanted.uri, **{**DEFAULTS, **patterns, "revision": wanted.revision, "max_age": settings.max_age}
            )
            return wanted.at(client.call("POST", "/v1/plan", body)["revision"])
    except CachedError:  # The acquire that follows raises a better error, or can do without the source.
        return wanted


async def _hold_everywhere(
    here: str,
    ours: Reference,
    theirs: Reference,
    settings: Settings,
    holders: Sequence[Holder],
    leases: list[Lease],
) -> list[Held]:
    """Acquire on all nodes at once. The first error cancels the other acquires, and is raised."""
    tasks = [asyncio.ensure_future(_hold_on(here, ours, settings, leases))]
    tasks += [asyncio.ensure_future(holder.hold(theirs, settings)) for holder in holders]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # A lease that is acquired late is on the list, too.


async def _hold_on(here: str, wanted: Reference, settings: Settings, leases: list[Lease]) -> Held:
    try:
        return await _hold_here(wanted, settings, leases)
    except CachedError as error:
        raise on_node(here, error) from error


async def _hold_here(wanted: Reference, settings: Settings, leases: list[Lease]) -> Held:
    held, lease = await acquire(wanted, settings)
    leases.append(lease)
    return held


def _check(wanted: Reference, nodes: Sequence[str], copies: Sequence[Held]) -> None:
    if len({copy.digest for copy in copies}) > 1:
        raise SourceChanged(f"{wanted} changed while the replica's nodes were fetching it; start the replica again.")
    if len({copy.path for copy in copies}) > 1:
        places = ", ".join(f"{copy.path} on node {node}" for node, copy in zip(nodes, copies, strict=True))
        raise CachedError(f"{wanted} is at {places}; give every daemon the same root, and only one.")
