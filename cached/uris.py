"""URIs as users type them: the forms that are accepted, the form that is remembered, and the name that is shown.

No secret belongs in a URI, because URIs are remembered, listed to other users and written to logs. Userinfo is refused,
except `anonymous@`, which says that no keys are to be used, and the container of Azure's form. The query of an http(s)
URL is often a signature; no list of names knows them all. So every such query is treated as a secret: it stays in the
memory of the request, and its sha256 is remembered, by which the same URL is found again. Other schemes have no query;
a query there that looks like a signature or a token is refused.
"""

from __future__ import annotations

import hashlib
import re

from cached.errors import InvalidRequest

AZURE_SCHEMES = ("abfss", "azure", "abfs", "az")  # Spellings of one kind of source.
WEB_SCHEMES = ("http", "https")

_PATHS = ("file", "local")  # Have no host, so no userinfo.
_MARK = "sha256:"
_HASHED = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s@:/\\?#\[\]%]+)(?::[0-9]{1,5})?\Z")
_CONTAINER = re.compile(r"\$?[a-z0-9-]{1,63}\Z")
_SIGNS = re.compile(
    r"(?:sig|token|key|secret|passw|pwd|auth|cred|access|session|bearer|jwt|x-amz|x-goog)[^=&;?#]*=", re.IGNORECASE
)


def spoken(text: str) -> str:
    """Return any typed text for use in a message: shortened, and without the parts that may be a secret."""
    scheme, separator, rest = text.partition("://")
    rest = re.split(r"[?#]", rest if separator else scheme, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    named = host.rpartition("@")[2] + slash + path
    return (f"{scheme}://{named}" if separator else named)[:120]


def display_name(uri: str) -> str:
    """Return the name shown to people for a URI that was accepted."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if uri.startswith(("http://", "https://")) else uri


def canonical(scheme: str, place: str) -> tuple[str, str]:
    """Return `scheme://place` as it is remembered, and the query, which is not. Raise InvalidRequest if the URI
    contains a secret or is malformed."""
    if scheme in _PATHS:
        return f"{scheme}://{place}", ""
    if scheme in WEB_SCHEMES:
        return _web(scheme, place)
    place = place.strip("/")
    user, at, _ = place.partition("/")[0].rpartition("@")
    if at and scheme in AZURE_SCHEMES and not _CONTAINER.match(user):
        raise InvalidRequest(
            f"Before the @ of {scheme}://container@account.dfs.core.windows.net/prefix stands a container: set "
            "AZURE_STORAGE_ACCOUNT_KEY or another variable of Azure for a key."
        )
    if at and scheme not in AZURE_SCHEMES and (user != "anonymous" or scheme not in ("s3", "gs")):
        raise InvalidRequest(
            "Keys and passwords do not belong into a URI: set the variables of its source, such as AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, instead."
        )
    more = re.split(r"[?#]", place, maxsplit=1)[1:]
    if more and _SIGNS.search(more[0]):
        raise InvalidRequest(
            "Signatures and tokens do not belong into a URI: set the variables of its source, such as "
            "AZURE_STORAGE_SAS_TOKEN, instead."
        )
    return f"{scheme}://{place}", ""


def with_query(uri: str, query: str) -> str:
    """Return the URI with its query, as it is requested. Raise InvalidRequest if only the query's hash is known."""
    bare, mark, kept = uri.partition("?")
    if mark and not query and _HASHED.match(kept):
        raise InvalidRequest(f"The query of {bare} is kept nowhere; ask again with the whole URL.")
    return f"{bare}?{query}" if query else bare


def _web(scheme: str, place: str) -> tuple[str, str]:
    bare, _, query = place.partition("#")[0].partition("?")
    host = bare.partition("/")[0]
    if "@" in host:
        raise InvalidRequest("Passwords do not belong into a URI; use a source that takes credentials.")
    if not _HOST.match(host):
        raise InvalidRequest("The URL is malformed; check its host and port.")
    if not query or _HASHED.match(query):
        return f"{scheme}://{bare}" + (f"?{query}" if query else ""), ""
    return f"{scheme}://{bare}?{_MARK}{hashlib.sha256(query.encode()).hexdigest()}", query
