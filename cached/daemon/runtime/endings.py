"""Ends of work that nobody may be waiting for any more."""

from __future__ import annotations

import asyncio
from typing import Any

from cached.errors import CachedError


def seen(ended: asyncio.Future[Any]) -> None:
    """Look at the error that it ended with, if any: who waited may have left, and an error that nobody has looked at is
    logged as a bug when the memory is freed, with its trace."""
    if not ended.cancelled():
        ended.exception()


def first_of(errors: ExceptionGroup[Exception]) -> Exception:
    """The error to report of several readers': a named one rather than a surprise."""
    return next((error for error in errors.exceptions if isinstance(error, CachedError)), errors.exceptions[0])
