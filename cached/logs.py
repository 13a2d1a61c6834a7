"""Log lines: an event and its ids, as logfmt on stderr. The journal adds the time and the unit.

Names are received from remotes and from other users. So only printable text is written as it is: everything that
controls a terminal, or hides or reverses text (control, format and bidirectional characters, line and paragraph
separators, halves of surrogate pairs), is escaped, and no value begins a line. Fields that other libraries attach to
every record of the process, as Ray does, have names that begin with an underscore, and are left out.
"""

from __future__ import annotations

import json
import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname.lower(), "event": record.getMessage()}
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}
        line = " ".join(f"{_quoted(name)}={_quoted(value)}" for name, value in fields.items())
        traces = [self.formatException(record.exc_info)] if record.exc_info else []
        traces += [record.stack_info] if record.stack_info else []
        return "\n".join([line, *(f"  {escaped(each)}" for trace in traces for each in trace.split("\n"))])


def _quoted(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(char in text for char in ' "='):
        return text
    return json.dumps(text).replace("\x7f", "\\u007f")


def escaped(text: str) -> str:
    """Return `text` with everything that is not printable escaped, as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def configure(level: str) -> None:
    """Log our own events at `level`, and those of libraries from warnings up: their debug lines show headers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cached").setLevel(level.upper())
