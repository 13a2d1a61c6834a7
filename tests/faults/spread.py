"""Many small jobs over a few forked processes: each takes the next that nobody has."""

from __future__ import annotations

import os
import selectors
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.faults.forks import Channel, Child

Job = TypeVar("Job")
Result = TypeVar("Result")

_NUMBER = struct.Struct("I")


def spread(jobs: Sequence[Job], work: Callable[[Job], Result], workers: int) -> list[Result]:
    """The result of each job, in order. RuntimeError when a worker fails; then none is left."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    children = [Child(_worker(jobs, work, reading, writing)) for _ in range(min(workers, len(jobs)))]
    results: dict[int, Result] = {}
    try:
        _hand_out(len(jobs), writing, children, results)
    finally:
        os.close(reading)
        os.close(writing)
        for child in children:
            child.end()
    return [results[index] for index in range(len(jobs))]


def _worker(
    jobs: Sequence[Job], work: Callable[[Job], Result], reading: int, writing: int
) -> Callable[[Channel], None]:
    def run(channel: Channel) -> None:
        os.close(writing)
        os.set_blocking(reading, True)
        while number := os.read(reading, _NUMBER.size):
            (index,) = _NUMBER.unpack(number)
            channel.say(index, work(jobs[index]))

    return run


def _hand_out(count: int, writing: int, children: list[Child], results: dict[int, Result]) -> None:
    """One job beyond what each is doing, so that none waits and the pipe never fills."""
    numbers = iter(range(count))

    def next_job() -> None:
        for number in numbers:
            os.write(writing, _NUMBER.pack(number))
            return

    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.channel, selectors.EVENT_READ, child)
            next_job()
            next_job()
        while len(results) < count:
            for key, _ in selector.select():
                said = key.data.channel.hear()
                if said is None:
                    raise RuntimeError("a worker of the fault suite died")
                results[said[0]] = said[1]
                next_job()
