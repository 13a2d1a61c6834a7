"""Log lines: an event and its ids, as logfmt on stderr. The journal adds the time and the unit."""

from __future__ import annotations

import json
import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname.lower(), "event": record.getMessage()}
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and all(char > " " and char not in '"=\x7f' for char in text) else json.dumps(text)


def configure(level: str) -> None:
    """Ours at `level`; libraries' only from warnings up, because their debug lines show headers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cached").setLevel(level.upper())
