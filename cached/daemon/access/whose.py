"""Under whose name a model is remembered, and who may go by it.

Where a name means the same for all, a caller goes by what is open to all and by what its own credentials were told.
Where keys, a region or an account choose what a name means (an S3 tenant, an Azure account), it goes by its own alone.
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
        """What stands for the credentials that are used for the caller there."""
        empty = OWN if caller.with_own(ref) else NOBODY
        return proofs.who(caller.used(ref), self._namespace(ref, caller), empty)

    def open(self, proofs: Proofs, ref: ModelRef, caller: Caller) -> str:
        """What stands for everybody, as far as names mean the same to everybody."""
        return proofs.who({}, self._namespace(ref, caller), ALL)

    def row(self, proofs: Proofs, ref: ModelRef, caller: Caller, open_to_all: bool) -> str:
        """Whose a name is that this caller's credentials have been told."""
        return self.open(proofs, ref, caller) if open_to_all else self.credentials(proofs, ref, caller)

    def rows(self, proofs: Proofs, ref: ModelRef, caller: Caller) -> tuple[str, ...] | None:
        """Whose names the caller may go by; None: anybody's."""
        one = same_for_all(ref.scheme)
        if one and (caller.daemon or self._config.access == "node"):
            return None
        mine, everybodys = self.credentials(proofs, ref, caller), self.open(proofs, ref, caller)
        return (everybodys, mine) if one or mine.startswith(NOBODY) else (mine,)

    def key(self, ref: ModelRef, caller: Caller) -> str:
        """The same for all callers who would be told the same. Not to be written down."""
        parts = caller.with_own(ref), sorted(caller.used(ref).items()), sorted(self._namespace(ref, caller).items())
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _namespace(self, ref: ModelRef, caller: Caller) -> dict[str, str]:
        chosen = ref.scheme == "s3" and self._config.s3_region  # Then the caller's region is not used.
        return {} if chosen else caller.credentials.namespace(ref.scheme)
