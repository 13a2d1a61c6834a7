"""Notify systemd of the daemon's state: sd_notify(3) over its datagram socket. Does nothing where systemd did not start
us."""

from __future__ import annotations

import asyncio
import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `STATUS=…` and the like."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # The abstract namespace.
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())


async def watchdog() -> None:
    """Send keep-alives from the event loop, at half the interval that the unit sets: a stuck loop stops them."""
    interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
    if not interval or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
