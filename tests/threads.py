"""A call in the background of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(call: Callable[[], T]) -> Iterator[Future[T]]:
    """It has ended when the block has."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)
