"""The results of work that no caller may be waiting for any more."""

from __future__ import annotations

import asyncio
from typing import Any

from cached.errors import CachedError


def seen(ended: asyncio.Future[Any]) -> None:
    """Retrieve the error of a future, if any. The caller may have left, and asyncio logs an error that was never
    retrieved as a bug, with its trace, when the memory is freed."""
    if not ended.cancelled():
        ended.exception()


def first_of(errors: ExceptionGroup[Exception]) -> Exception:
    """Return the error to report of several: a CachedError rather than an unexpected one."""
    return next((error for error in errors.exceptions if isinstance(error, CachedError)), errors.exceptions[0])
