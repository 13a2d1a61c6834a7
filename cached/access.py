"""Who may read a model: the credentials that a caller brings, and what is known of whom the source gives it to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from cached.model import Entry, Listing, ModelRef
from cached.uris import AZURE_SCHEMES as AZURE_SCHEMES


@dataclass(frozen=True, slots=True)
class Credentials:
    """A caller's own variables (HF_TOKEN, AWS_…, GOOGLE_…). In memory only; never shown.

    `lend`: where the caller has none for a source, the daemon's own are used; else nobody's.
    """

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    lend: bool = True

    def get(self, name: str) -> str | None:
        return self.variables.get(name) or None

    def __bool__(self) -> bool:
        return bool(self.variables)

    def personal(self, scheme: str) -> dict[str, str]:
        """The caller's own for this kind of source; empty when it has none, and the daemon's are used, if anybody's."""
        deciding, others = _PERSONAL.get(scheme, ((), ()))
        found = {name: self.variables[name] for name in deciding if self.get(name)}
        return found and {**found, **{name: self.variables[name] for name in others if self.get(name)}}


_AZURE = (
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
)

# By scheme: the variables one of which makes credentials of a caller, and those that then count as well.
_PERSONAL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hf": (("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), ()),
    "s3": (("AWS_ACCESS_KEY_ID",), ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")),
    "gs": (("GOOGLE_APPLICATION_CREDENTIALS_JSON",), ()),
    **dict.fromkeys(AZURE_SCHEMES, (_AZURE, ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"))),
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may read what a ref means: `open` to everybody, or whoever may read the remote file `probe` at this moment.

    `own` says that the daemon's own credentials opened it. `probe` is a Listing.identity; with neither, nothing is
    known, and the source has to be asked.
    """

    kind: str = ""  # "", "open", "own" or "caller"
    probe: str = ""

    @classmethod
    def of(cls, listing: Listing, own: bool) -> Access:
        if listing.open:
            return cls("open")
        return cls("own" if own else "caller", listing.identity(listing.probe))

    @classmethod
    def parse(cls, text: str) -> Access:
        """What `str` of it was; nothing is known when it was not that."""
        kind, _, probe = text.partition(" ")
        known = text == "open" or (kind in ("own", "caller") and probe.startswith("["))
        return cls(kind, probe) if known else cls()

    def __str__(self) -> str:
        return f"{self.kind} {self.probe}".strip()

    @property
    def open(self) -> bool:
        return self.kind == "open"

    def listing(self, ref: ModelRef, revision: str) -> Listing:
        """Of the probe alone. ValueError when there is none."""
        place, path, version, size = json.loads(self.probe)
        return Listing(ref, place, revision, (Entry(path, size, version),))


UNKNOWN = Access()
