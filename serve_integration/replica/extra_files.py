"""The extra files of a mirror (`CloudMirrorConfig.extra_files`): copied from the cache to where the user wants them.

They are copies, because the user may change the files at a destination: a hard link would carry the changes into the
cache, and a symlink would dangle once the cache needs the space. Where the file system can, a copy shares its blocks.
"""

from __future__ import annotations

import asyncio
import errno
import filecmp
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cached import CachedError, Client
from serve_integration.models.model_source import Reference, files_reference
from serve_integration.replica.acquire import Reporter, log
from serve_integration.replica.node_lease import node_name, on_node
from serve_integration.settings import Settings

# The kernel copies by itself where both files are its own to copy: not across every pair of file systems.
_NOT_BY_THE_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
_CHUNK = 64 << 20


@dataclass(frozen=True, slots=True)
class ExtraFiles:
    """A folder of a bucket, or one object, and its destination.

    The files of a folder go into the destination, as they do with Ray. One object, which Ray cannot fetch, becomes the
    destination itself, unless that is a folder or ends in a slash.
    """

    wanted: Reference
    destination: str  # As the user wrote it: variables and `~` mean each node's own.


def extra_files(mirror: Any) -> tuple[ExtraFiles, ...]:
    """Return the extra files of a CloudMirrorConfig, or of None, that can be requested from the cache."""
    pairs = [(files_reference(extra.bucket_uri), extra) for extra in getattr(mirror, "extra_files", None) or ()]
    return tuple(ExtraFiles(wanted, extra.destination_path) for wanted, extra in pairs if wanted is not None)


def without_extra_files(mirror: Any) -> Any:
    """Return the CloudMirrorConfig with only the extra files that `extra_files` leaves out: Ray is to fetch them."""
    return mirror.model_copy(
        update={"extra_files": [extra for extra in mirror.extra_files if files_reference(extra.bucket_uri) is None]}
    )


async def place_everywhere(
    extras: Sequence[ExtraFiles], settings: Settings, other_nodes: Sequence[str], runtime_env: Any
) -> None:
    """Put the extra files in their places here and on the other nodes. The first CachedError is raised; it names the
    files and the node."""
    tasks = [asyncio.ensure_future(place(extras, settings))]
    tasks += [asyncio.ensure_future(_place_on(node, extras, settings, runtime_env)) for node in other_nodes]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def place(extras: Sequence[ExtraFiles], settings: Settings) -> None:
    """Put the extra files in their places on this node. Each is held until it is copied; the copy needs no lease.
    Raises CachedError."""
    for extra in extras:
        try:
            await _place(extra, settings)
        except CachedError as error:
            raise type(error)(f"Cannot bring the extra files {extra.wanted}: {error.message}") from error


async def _place(extra: ExtraFiles, settings: Settings) -> None:
    started = time.monotonic()
    lease = await Client(settings.socket).acquire_async(
        extra.wanted.uri,
        revision=extra.wanted.revision,
        max_age=settings.max_age,
        timeout=settings.timeout,
        progress=Reporter(str(extra.wanted)),
    )
    with lease:
        try:
            copied = await asyncio.to_thread(copy, lease.path, extra)
        except OSError as error:
            raise CachedError(
                f"they cannot be put at {extra.destination}: {error.strerror or error}; check 'destination_path'."
            ) from error
    log.info(
        "cached: extra=%s destination=%s digest=%s %s seconds=%g bytes=%d copied=%d",
        *(extra.wanted, extra.destination, lease.digest, "hit" if lease.hit else "miss"),
        *(round(time.monotonic() - started, 4), lease.size, copied),
    )


async def _place_on(node: str, extras: Sequence[ExtraFiles], settings: Settings, runtime_env: Any) -> None:
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    task = ray.remote(_in_task).options(num_cpus=0, scheduling_strategy=strategy, runtime_env=runtime_env)
    try:
        error = await task.remote(tuple(extras), settings)
    except RayError as failed:
        why = f"Ray could not bring the extra files there: {str(failed).strip().splitlines()[-1]}"
        raise on_node(node_name(node), CachedError(why)) from failed
    if error is not None:
        raise on_node(node_name(node), error)


def _in_task(extras: Sequence[ExtraFiles], settings: Settings) -> CachedError | None:
    """Put the files in their places. Return an error as a value: raised, it would be wrapped in one of Ray's."""
    try:
        asyncio.run(place(extras, settings))
    except CachedError as error:
        return error
    return None


def copy(snapshot: str, extra: ExtraFiles) -> int:
    """Make the destination hold the snapshot's files, and return how many had to be copied. Raises OSError.

    A file that has the same bytes already is left as it is; any other is replaced entirely, in one rename. Other files
    at the destination stay.
    """
    return sum(_copy(source, target) for source, target in _pairs(snapshot, extra))


def _pairs(snapshot: str, extra: ExtraFiles) -> Iterator[tuple[str, str]]:
    destination = os.path.expanduser(os.path.expandvars(extra.destination))
    names = os.listdir(snapshot)
    if names == [extra.wanted.uri.rpartition("/")[2]] and os.path.isfile(os.path.join(snapshot, names[0])):
        folder = destination.endswith("/") or os.path.isdir(destination)
        yield os.path.join(snapshot, names[0]), os.path.join(destination, names[0]) if folder else destination
        return
    for folder_path, _, files in os.walk(snapshot):
        into = os.path.normpath(os.path.join(destination, os.path.relpath(folder_path, snapshot)))
        for name in files:
            yield os.path.join(folder_path, name), os.path.join(into, name)


def _copy(source: str, target: str) -> bool:
    """Copy the file. Return False if the target had the same bytes already."""
    if os.path.isfile(target) and filecmp.cmp(source, target, shallow=False):
        return False
    folder = os.path.dirname(target) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.part")  # Several replicas may copy at once.
    try:
        with open(source, "rb") as reading, open(temporary, "xb") as writing:
            _copy_bytes(reading, writing)
        os.replace(temporary, target)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    return True


def _copy_bytes(reading: BinaryIO, writing: BinaryIO) -> None:
    try:
        while os.copy_file_range(reading.fileno(), writing.fileno(), _CHUNK):
            pass
        return
    except OSError as error:
        if error.errno not in _NOT_BY_THE_KERNEL:
            raise
    reading.seek(0)
    writing.seek(0)
    shutil.copyfileobj(reading, writing, 1 << 20)
