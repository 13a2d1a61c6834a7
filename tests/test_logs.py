"""The log is text, whatever the names are that get into it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from cached import logs

HOSTILE = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    "\xad",
    "\u200b",
    "\u200e",
    "\u2028",
    "\u2029",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\ufeff",
    "\U000e0041",
    "\ud800",
]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, "utf-8", write_through=True))
    root, level = logging.getLogger(), logging.getLogger("cached").level
    monkeypatch.setattr(root, "handlers", [])
    logs.configure("info")
    yield raw
    logging.getLogger("cached").setLevel(level)


def lines(log: io.BytesIO) -> list[str]:
    text = log.getvalue().decode()
    assert all(char == "\n" or char.isprintable() for char in text)
    return text.splitlines()


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_nothing_that_is_not_printable_gets_through(log: io.BytesIO, hostile: str) -> None:
    for capturing in logging.getLogger().handlers[
        1:
    ]:  # pytest's: a lone surrogate cannot be reported between processes.
        logging.getLogger().removeHandler(capturing)
    name = f"a{hostile}b"
    logging.getLogger("cached.x").error(name, extra={"file": name, name: "value", "both": [name]})
    assert len(lines(log)) == 1
    try:
        raise ValueError(name)
    except ValueError:
        logging.getLogger("cached.x").exception("bug", stack_info=True)
    assert [line for line in lines(log) if "Error" in line]


def test_no_trace_can_be_taken_for_another_line(log: io.BytesIO) -> None:
    try:
        raise ValueError("x\nlevel=error event=store.degraded")
    except ValueError:
        logging.getLogger("cached.x").exception("bug")
    assert [line for line in lines(log) if line.startswith("level=")] == ["level=error event=bug"]


def test_no_value_can_be_taken_for_another(log: io.BytesIO) -> None:
    logging.getLogger("cached.x").info("event", extra={"a": 'x" b=c', "d": "e=f", "g": "ü/ü"})
    assert lines(log) == ['level=info event=event a="x\\" b=c" d="e=f" g=ü/ü']


def test_what_other_libraries_hang_on_records_is_left_out(log: io.BytesIO) -> None:
    """Ray gives every record of a process a `_ray_timestamp_ns`, by a factory of records of its own."""
    factory = logging.getLogRecordFactory()

    def with_time(*args: Any, **more: Any) -> logging.LogRecord:
        record = factory(*args, **more)
        record.__dict__["_ray_timestamp_ns"] = 1
        return record

    logging.setLogRecordFactory(with_time)
    try:
        logging.getLogger("cached.x").info("event", extra={"a": 1})
    finally:
        logging.setLogRecordFactory(factory)
    assert lines(log) == ["level=info event=event a=1"]
