"""The values that are allowed in variables with credentials, checked on receipt by clients and daemon alike.

The values are sent in headers, in signatures, in queries and (a region, a tenant) in host names. A value that could end
a line or leave its position would let the caller choose a request, or a host, of its own. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from cached.errors import InvalidRequest

MAX_LENGTH = 16 << 10  # A key file has 3 KiB, a session token of AWS 2.

_WORD = re.compile(r"[!-~]+\Z")  # Sent in a header.
_WORDS = re.compile(r"[ -~]+\Z")  # Not sent in a header.
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")  # A single label of a host name.
_LABELS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]|\.(?!\.)){0,252}\Z")
_LINES = re.compile(r"[ -~\r\n]*\Z")
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS_JSON"

ALPHABETS: Mapping[str, re.Pattern[str]] = {
    "HF_TOKEN": _WORD,
    "HUGGING_FACE_HUB_TOKEN": _WORD,
    "AWS_ACCESS_KEY_ID": _WORD,
    "AWS_SECRET_ACCESS_KEY": _WORDS,
    "AWS_SESSION_TOKEN": _WORD,
    "AWS_REGION": _LABEL,  # s3.REGION.amazonaws.com
    "AWS_DEFAULT_REGION": _LABEL,
    "AZURE_STORAGE_ACCOUNT_NAME": re.compile(r"[a-z0-9]{3,24}\Z"),
    "AZURE_STORAGE_ACCOUNT_KEY": _WORD,
    "AZURE_STORAGE_CONNECTION_STRING": _WORDS,  # Its parts are read one by one; endpoints in it are ignored.
    "AZURE_STORAGE_SAS_TOKEN": _WORD,
    "AZURE_TENANT_ID": _LABELS,  # login.microsoftonline.com/TENANT/
    "AZURE_CLIENT_ID": _WORD,
    "AZURE_CLIENT_SECRET": _WORDS,
    _GOOGLE: re.compile(r"[\t\r\n -~]+\Z"),  # Each string in it is checked too: see `_odd`.
}


def cleaned(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the known variables that are not empty, without white space at the ends: a file's last line ends in a
    newline.

    Raise InvalidRequest that names the first variable with a forbidden value, and does not repeat the value.
    """
    found = {name: value.strip() for name, value in variables.items() if name in ALPHABETS}
    for name, value in found.items():
        if value and _is_wrong(name, value):
            raise InvalidRequest(
                f"The variable {name} holds a character that does not belong there, or is no such value at all; "
                "set it again."
            )
    return {name: value for name, value in found.items() if value}


def _is_wrong(name: str, value: str) -> bool:
    if len(value) > MAX_LENGTH or not ALPHABETS[name].match(value):
        return True
    return name == _GOOGLE and _odd(value)


def _odd(text: str) -> bool:
    """Return True unless the text is a JSON object in which no string could leave a header. A private key may have
    several lines."""
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        return True
    if not isinstance(account, dict):
        return True
    key = account.pop("private_key", "")
    return not isinstance(key, str) or not _LINES.match(key) or not all(map(_WORDS.match, _texts(account)))


def _texts(value: object) -> Iterator[str]:
    """Yield all strings in the value that are not empty, the names of fields included."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text) if text:
                yield text
            case list(items):
                waiting += items
            case dict(fields):
                waiting += [*fields, *fields.values()]
