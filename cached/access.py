"""Access to models: a caller's credentials, and the record of which callers the source lets read a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.uris import AZURE_SCHEMES


@dataclass(frozen=True, slots=True)
class Credentials:
    """A caller's own variables (HF_TOKEN, AWS_…, GOOGLE_…). Kept in memory only; never shown.

    `lend` allows the daemon's own credentials for a source for which the caller has none; without it, none are used.
    """

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    lend: bool = True

    def get(self, name: str) -> str | None:
        return self.variables.get(name) or None

    def __bool__(self) -> bool:
        return bool(self.variables)

    def personal(self, scheme: str) -> dict[str, str]:
        """Return the caller's own credentials for this scheme; if empty, the daemon's are used, if any."""
        deciding, others = _PERSONAL.get(scheme, ((), ()))
        found = {name: self.variables[name] for name in deciding if self.get(name)}
        if scheme == "hf":  # Two spellings of one variable; the first is sent.
            return dict(list(found.items())[:1])
        return found and {**found, **{name: self.variables[name] for name in others if self.get(name)}}

    def namespace(self, scheme: str) -> dict[str, str]:
        """Return the caller's variables that select a region or an account, and so the meaning of a name. They count
        with or without credentials."""
        return {name: self.variables[name] for name in _NAMESPACE.get(scheme, ()) if self.get(name)}

    @property
    def temporary(self) -> bool:
        """Return True if the caller's keys belong to a session, which gets new keys at its next start."""
        return bool(self.get("AWS_SESSION_TOKEN"))


_AZURE = (
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
)

# By scheme: the variables any one of which gives the caller credentials, and those that then count as well.
_PERSONAL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hf": (("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), ()),
    "s3": (("AWS_ACCESS_KEY_ID",), ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")),
    "gs": (("GOOGLE_APPLICATION_CREDENTIALS_JSON",), ()),
    **dict.fromkeys(AZURE_SCHEMES, (_AZURE, ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"))),
}


# By scheme: the variables that select a region or an account, and with it the meaning of a name.
_NAMESPACE: dict[str, tuple[str, ...]] = {
    "s3": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    **dict.fromkeys(AZURE_SCHEMES, ("AZURE_STORAGE_ACCOUNT_NAME",)),
}
# Schemes whose names mean the same for all. Elsewhere keys may select the tenant, the partition or the account.
_ONE_NAMESPACE = ("hf", "gs", "http", "https", "file", "local")


def same_for_all(scheme: str) -> bool:
    """Return True if a name under this scheme means the same thing whatever credentials are used."""
    return scheme in _ONE_NAMESPACE


def unsigned(ref: ModelRef) -> bool:
    """Return True if the URI itself says that no credentials are to be used."""
    return ref.place.startswith("anonymous@")


PLACE, FILES = "place:", "files:"


@dataclass(frozen=True, slots=True)
class Access:
    """The callers that may read a ref: everybody (`open`), or every caller that has recently proved access to `probe`.

    `own` says that the proof was made with the daemon's own credentials. `probe` is `place:` and the identity of the
    one file that opens the whole place, or `files:` and a hash over all identities where each file has to be proved by
    itself. With neither, nothing is known, and the source has to be queried.
    """

    kind: str = ""  # "", "open", "own" or "caller"
    probe: str = ""

    @classmethod
    def of(cls, listing: Listing, own: bool) -> Access:
        return cls("open") if listing.open else cls("own" if own else "caller", probe_of(listing))

    @classmethod
    def parse(cls, text: str) -> Access:
        """Parse the text that `str` of an Access gave. For any other text, return an Access with nothing known."""
        kind, _, probe = text.partition(" ")
        if kind in ("own", "caller") and probe.startswith("["):
            # From a former release, in which the smallest requested file stood for all: it no longer grants access.
            return cls("caller", probe)
        known = text == "open" or (kind in ("own", "caller") and probe.startswith((PLACE, FILES)))
        return cls(kind, probe) if known else cls()

    def __str__(self) -> str:
        return f"{self.kind} {self.probe}".strip()

    @property
    def open(self) -> bool:
        return self.kind == "open"

    @property
    def of_place(self) -> bool:
        """Return True if one file proves the right to the whole place."""
        return self.probe.startswith(PLACE)

    @property
    def place(self) -> str:
        """Return the place that one file proves; empty if `of_place` is False."""
        return str(json.loads(self.probe.removeprefix(PLACE))[0]) if self.of_place else ""

    def listing(self, ref: ModelRef, revision: str) -> Listing:
        """Return a listing of the probe file alone. Only for an Access with `of_place`."""
        place, path, version, size = json.loads(self.probe.removeprefix(PLACE))
        entry = Entry(path, size, version)
        return Listing(ref, place, revision, (entry,), probe=entry)


UNKNOWN = Access()


def probe_of(listing: Listing) -> str:
    """Return the key under which a proof of this listing is remembered; its length does not depend on the files."""
    if listing.probe is not None:
        return PLACE + listing.identity(listing.probe)
    digest = hashlib.sha256()
    for identity in sorted(map(listing.identity, listing.entries)):
        digest.update(f"{len(identity)} {identity}".encode())
    return FILES + digest.hexdigest()
