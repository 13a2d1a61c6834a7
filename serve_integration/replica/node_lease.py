"""Leases on the other nodes of a replica: on each node a small actor holds the model, and ends with the replica."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cached import CachedError, Lease
from cached.client.lease import pauses, take
from serve_integration.models.model_source import Reference
from serve_integration.replica.acquire import Held, acquire, log, make_torch_kernels
from serve_integration.replica.report import report
from serve_integration.settings import Settings

START_SECONDS = 60.0  # For a worker process to start, on top of the user's timeout.
HOLD_SECONDS = 5.0  # For locking again a file that a process of ours held.
PAUSE_SECONDS = 0.1  # Between two checks that Ray has started it again.
_ERROR = re.compile(r"\w+(Error|Exception): ")


class NodeHolder:
    """Hold a model on its node. The actor itself acquires, because no other process of ours on that node outlives the
    loading of the model."""

    def __init__(self) -> None:
        self._hold: Lease | int | None = None  # An int is a descriptor with the flock.

    async def hold(self, wanted: Reference, settings: Settings) -> Held | CachedError:
        """Acquire the model. Return an error as a value: raised, it would be wrapped in one of Ray's."""
        try:
            held, lease = await acquire(wanted, settings)
        except CachedError as error:
            return error
        if isinstance(self._hold, Lease):  # Called again: the replica does not use the first copy.
            self._hold.release()
        self._hold = lease
        make_torch_kernels()
        return held

    async def is_there(self) -> None:
        """Return once the process runs."""

    async def keep(self, wanted: Reference, settings: Settings, held: Held) -> CachedError:
        """Hold exactly this copy for as long as the actor lives; return an error when a new process could not hold it
        again."""
        if self._hold is None:  # The process that acquired it has died; Ray has started this one in its place.
            try:
                self._hold = await _take_again(wanted, settings, held)
            except CachedError as error:
                return error
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def _take_again(wanted: Reference, settings: Settings, held: Held) -> Lease | int:
    """Hold the same snapshot again: without the daemon if it still exists, or else fetched again. Raises CachedError if
    its source has changed."""
    descriptor = await asyncio.to_thread(_take_while_there, held.lock_file)
    if descriptor is not None:
        return descriptor
    again, lease = await acquire(wanted.at(held.revision), settings)
    if (again.digest, again.path) != (held.digest, held.path):
        lease.release()
        raise CachedError(f"{wanted} was removed before it could be held again, and its source has changed since.")
    return lease


def _take_while_there(lock_file: str) -> int | None:
    """Lock the file, and return the descriptor. Return None once the file is gone, is not this process's to lock, or
    stays locked for HOLD_SECONDS: the daemon has to be asked. A process that excludes us only checks, or is about to
    remove the file."""
    tries = pauses(HOLD_SECONDS)
    while os.access(lock_file, os.R_OK, effective_ids=True):
        descriptor = take(lock_file)
        if descriptor is not None:
            return descriptor
        if next(tries, ()) == ():
            break
    return None


class Holder:
    """Another node's actor, in the replica. Every CachedError names the node."""

    def __init__(self, node: str, runtime_env: Any) -> None:
        self.node = node_name(node)
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": strategy, "runtime_env": runtime_env}
        self._actor = ray.remote(NodeHolder).options(**options).remote()
        self._ended = threading.Event()

    async def hold(self, wanted: Reference, settings: Settings) -> Held:
        patience = None if settings.timeout is None else settings.timeout + START_SECONDS
        try:
            answer = await asyncio.wait_for(_answer(self._actor.hold.remote(wanted, settings)), patience)
        except RayError as error:
            raise CachedError(
                f"On node {self.node}: Ray cannot run what would hold {wanted}: {_gist(error)}"
            ) from error
        except TimeoutError:
            raise CachedError(f"On node {self.node}: nothing held {wanted} within {patience:g} s.") from None
        if isinstance(answer, CachedError):
            raise on_node(self.node, answer)
        return answer

    def watch(self, wanted: Reference, settings: Settings, held: Held) -> None:
        """Report the hold, and hold the copy again when the actor's process dies, with a line in the replica's log."""
        report(wanted, held, self.node.partition(" ")[0])
        self._keep(wanted, settings, held)

    def _keep(self, wanted: Reference, settings: Settings, held: Held) -> None:
        def ended(answer: Any) -> None:  # On a thread of Ray's, which must not wait for Ray.
            threading.Thread(target=self._noticed, args=(answer, wanted, settings, held), daemon=True).start()

        self._actor.keep.remote(wanted, settings, held).future().add_done_callback(ended)

    def _noticed(self, answer: Any, wanted: Reference, settings: Settings, held: Held) -> None:
        error = answer.exception()
        if not self._wanted:
            return
        if isinstance(error, ActorUnavailableError):
            log.warning("cached: what holds %s on node %s died; it is started and held again.", wanted, self.node)
            self._wait_until_there()
            if self._wanted:
                self._keep(wanted, settings, held)
        elif error is not None:
            log.error("cached: nothing holds %s on node %s any more: %s", wanted, self.node, _gist(error))
        else:
            why = answer.result().message
            log.error("cached: nothing holds %s on node %s any more; restart the replica: %s", wanted, self.node, why)

    def _wait_until_there(self) -> None:
        """Return when the actor runs again, or has ended for good; the next call to it then raises."""
        while self._wanted:
            try:
                ray.get(self._actor.is_there.remote())
                return
            except ActorUnavailableError:
                self._ended.wait(PAUSE_SECONDS)
            except RayError:
                return

    @property
    def _wanted(self) -> bool:
        """Return False once it is released, or this process has left Ray: a call would start another Ray."""
        return not self._ended.is_set() and bool(ray.is_initialized())

    def release(self) -> None:
        """End the actor, and with it the hold."""
        self._ended.set()
        ray.kill(self._actor)


async def _answer(reference: Any) -> Held | CachedError:
    result: Held | CachedError = await reference
    return result


def on_node(node: str, error: CachedError) -> CachedError:
    """Return the error, with the node in its sentence."""
    return type(error)(f"On node {node}: {error.message}")


def node_name(node: str) -> str:
    """Return a name that an operator may know the node by: host name, address and the start of Ray's id."""
    for known in ray.nodes():
        if known["NodeID"] == node:
            return f"{known['NodeManagerHostname']} ({known['NodeManagerAddress']}, {node[:8]})"
    return node[:8]


def _gist(error: BaseException) -> str:
    """Return one line of Ray's many: the last that names an error, or else the first."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    named = [text for text in lines if _ERROR.match(text)]
    return (named or lines[:1] or [type(error).__name__])[-1]
