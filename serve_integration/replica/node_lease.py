"""The other nodes of a replica: on each a small actor that holds the model there, and ends with the replica."""

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

START_SECONDS = 60.0  # What a worker process may take to start, on top of the user's timeout.
HOLD_SECONDS = 5.0  # How long it is tried to lock again what a process of ours held.
PAUSE_SECONDS = 0.1  # Between two looks whether Ray has started it again.
_ERROR = re.compile(r"\w+(Error|Exception): ")


class NodeHolder:
    """The actor. It acquires, because where it runs no other process of ours outlives loading the model."""

    def __init__(self) -> None:
        self._hold: Lease | int | None = None  # An int is a descriptor with the flock.

    async def hold(self, wanted: Reference, settings: Settings) -> Held | CachedError:
        """The error as a value: raised, it would arrive wrapped in one of Ray's."""
        try:
            held, lease = await acquire(wanted, settings)
        except CachedError as error:
            return error
        if isinstance(self._hold, Lease):  # Asked again: what the first answer named is not what the replica uses.
            self._hold.release()
        self._hold = lease
        make_torch_kernels()
        return held

    async def is_there(self) -> None:
        """Answers once the process runs."""

    async def keep(self, wanted: Reference, settings: Settings, held: Held) -> CachedError:
        """Hold exactly this for as long as the actor lives; an error when a new process could not take it again."""
        if self._hold is None:  # The process that acquired it has died; Ray has started this one in its place.
            try:
                self._hold = await _take_again(wanted, settings, held)
            except CachedError as error:
                return error
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def _take_again(wanted: Reference, settings: Settings, held: Held) -> Lease | int:
    """The same snapshot: without the daemon if it is still there, else fetched again."""
    descriptor = await asyncio.to_thread(_take_while_there, held.lock_file)
    if descriptor is not None:
        return descriptor
    again, lease = await acquire(wanted.at(held.revision), settings)
    if (again.digest, again.path) != (held.digest, held.path):
        lease.release()
        raise CachedError(f"{wanted} was removed before it could be held again, and its source has changed since.")
    return lease


def _take_while_there(lock_file: str) -> int | None:
    """None once it is gone, or not this process's to lock: the daemon has to be asked. Until then whoever excludes us
    only looks, or is about to remove it."""
    tries = pauses(HOLD_SECONDS)
    while os.access(lock_file, os.R_OK, effective_ids=True):
        descriptor = take(lock_file)
        if descriptor is not None:
            return descriptor
        if next(tries, ()) == ():
            break
    return None


class Holder:
    """One other node's actor, as the replica sees it. Every CachedError names the node."""

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
        """Keep it held there when the actor's process dies, and say so in the replica's log."""
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
        """Returns also when the actor has ended for good; whoever asks it next hears that."""
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
        """Not once this process has left Ray: a call would start another one."""
        return not self._ended.is_set() and bool(ray.is_initialized())

    def release(self) -> None:
        """End the actor, and with it the hold."""
        self._ended.set()
        ray.kill(self._actor)


async def _answer(reference: Any) -> Held | CachedError:
    result: Held | CachedError = await reference
    return result


def on_node(node: str, error: CachedError) -> CachedError:
    """The same error, with the node in its sentence."""
    return type(error)(f"On node {node}: {error.message}")


def node_name(node: str) -> str:
    """What an operator may know it by: host name, address and the start of Ray's id."""
    for known in ray.nodes():
        if known["NodeID"] == node:
            return f"{known['NodeManagerHostname']} ({known['NodeManagerAddress']}, {node[:8]})"
    return node[:8]


def _gist(error: BaseException) -> str:
    """One line of Ray's many: the last that names an error, else the first."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    named = [text for text in lines if _ERROR.match(text)]
    return (named or lines[:1] or [type(error).__name__])[-1]
