"""Ends of work that nobody may be waiting for any more."""

from __future__ import annotations

import asyncio
from typing import Any


def seen(ended: asyncio.Future[Any]) -> None:
    """Look at the error that it ended with, if any: who waited may have left, and an error that nobody has looked at is
    logged as a bug when the memory is freed, with its trace."""
    if not ended.cancelled():
        ended.exception()
