"""The identity under which the meaning of a name is remembered, and the identities that a caller may use.

Where a name means the same to all callers, a caller uses the meanings that are open to all and those that its own
credentials received. Where keys, a region or an account choose the meaning of a name (an S3 tenant, an Azure account),
it uses its own alone.
"""

from __future__ import annotations

import hashlib
import json

from cached.access import same_for_all
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.model_ref import ModelRef
from cached.store.index.resolutions import ALL, OWN
from cached.store.proofs import NOBODY, Proofs


class Whose:
    def __init__(self, config: Config) -> None:
        self._config = config

    def credentials(self, proofs: Proofs, ref: ModelRef, caller: Caller) -> str:
        """Return the identity of the credentials that are used for the caller at the source of `ref`."""
        empty = OWN if caller.with_own(ref) else NOBODY
        return proofs.who(caller.used(ref), self._namespace(ref, caller), empty)

    def open(self, proofs: Proofs, ref: ModelRef, caller: Caller) -> str:
        """Return the identity that stands for everybody, within the namespace in which the caller's names have their
        meaning."""
        return proofs.who({}, self._namespace(ref, caller), ALL)

    def row(self, proofs: Proofs, ref: ModelRef, caller: Caller, open_to_all: bool) -> str:
        """Return the identity under which to record a meaning that this caller's credentials received."""
        return self.open(proofs, ref, caller) if open_to_all else self.credentials(proofs, ref, caller)

    def rows(self, proofs: Proofs, ref: ModelRef, caller: Caller) -> tuple[str, ...] | None:
        """Return the identities whose recorded meanings the caller may use; None means all."""
        one = same_for_all(ref.scheme)
        if one and (caller.daemon or self._config.access == "node"):
            return None
        mine, everybodys = self.credentials(proofs, ref, caller), self.open(proofs, ref, caller)
        return (everybodys, mine) if one or mine.startswith(NOBODY) else (mine,)

    def key(self, ref: ModelRef, caller: Caller) -> str:
        """Return a key that is equal for all callers that would receive the same answer. It must not be stored."""
        parts = caller.with_own(ref), sorted(caller.used(ref).items()), sorted(self._namespace(ref, caller).items())
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _namespace(self, ref: ModelRef, caller: Caller) -> dict[str, str]:
        chosen = ref.scheme == "s3" and self._config.s3_region  # Then the caller's region is not used.
        return {} if chosen else caller.credentials.namespace(ref.scheme)
