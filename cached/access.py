"""Who may read a model: the credentials that a caller brings, and what is known of whom the source gives it to."""

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
        if scheme == "hf":  # Spellings of one thing; the first is sent.
            return dict(list(found.items())[:1])
        return found and {**found, **{name: self.variables[name] for name in others if self.get(name)}}

    def namespace(self, scheme: str) -> dict[str, str]:
        """The caller's variables that choose where a name leads, be they beside credentials or alone."""
        return {name: self.variables[name] for name in _NAMESPACE.get(scheme, ()) if self.get(name)}

    @property
    def temporary(self) -> bool:
        """Whether the caller's keys are those of a session, which will be others at its next start."""
        return bool(self.get("AWS_SESSION_TOKEN"))


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


# By scheme: what chooses a region or an account, and with it what a name means.
_NAMESPACE: dict[str, tuple[str, ...]] = {
    "s3": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    **dict.fromkeys(AZURE_SCHEMES, ("AZURE_STORAGE_ACCOUNT_NAME",)),
}
# Where a name means the same for all. Elsewhere keys may choose the tenant, the partition or the account.
_ONE_NAMESPACE = ("hf", "gs", "http", "https", "file", "local")


def same_for_all(scheme: str) -> bool:
    """Whether a name there means one thing, whatever credentials it is asked with."""
    return scheme in _ONE_NAMESPACE


def unsigned(ref: ModelRef) -> bool:
    """Whether the URI itself says that no credentials are to be used."""
    return ref.place.startswith("anonymous@")


PLACE, FILES = "place:", "files:"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may read what a ref means: `open` to everybody, or whoever has proved `probe` lately.

    `own` says that the daemon's own credentials opened it. `probe` is `place:` and the identity of the one file that
    opens the whole place, or `files:` and a hash over all identities where each file has to be proved by itself. With
    neither, nothing is known, and the source has to be asked.
    """

    kind: str = ""  # "", "open", "own" or "caller"
    probe: str = ""

    @classmethod
    def of(cls, listing: Listing, own: bool) -> Access:
        return cls("open") if listing.open else cls("own" if own else "caller", probe_of(listing))

    @classmethod
    def parse(cls, text: str) -> Access:
        """What `str` of it was; nothing is known when it was not that."""
        kind, _, probe = text.partition(" ")
        if kind in ("own", "caller") and probe.startswith("["):
            # Of a former release, which let the smallest file that was asked for stand for all: it opens nothing more.
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
        """Whether one file proves the right to the whole place."""
        return self.probe.startswith(PLACE)

    @property
    def place(self) -> str:
        """Where it was proved; empty where it is not the place that is proved."""
        return str(json.loads(self.probe.removeprefix(PLACE))[0]) if self.of_place else ""

    def listing(self, ref: ModelRef, revision: str) -> Listing:
        """Of the probe alone, where it stands for the place."""
        place, path, version, size = json.loads(self.probe.removeprefix(PLACE))
        entry = Entry(path, size, version)
        return Listing(ref, place, revision, (entry,), probe=entry)


UNKNOWN = Access()


def probe_of(listing: Listing) -> str:
    """What a proof of this listing is remembered under. Of the same length however many files there are."""
    if listing.probe is not None:
        return PLACE + listing.identity(listing.probe)
    digest = hashlib.sha256()
    for identity in sorted(map(listing.identity, listing.entries)):
        digest.update(f"{len(identity)} {identity}".encode())
    return FILES + digest.hexdigest()
