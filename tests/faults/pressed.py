"""A replica under pressure: acquires, reads all that it holds, reads it again, releases; a word on stdout for each.

`python -m tests.faults.pressed SOCKET MODELS SEED`, until its standard input ends; MODELS is a JSON file of sha256 by
path by URI.
"""

from __future__ import annotations

import hashlib
import json
import random
import select
import sys
from pathlib import Path

from cached import AllHeld, Client, DaemonUnavailable, Lease

HELD = 2  # Models held at once: long enough that they would be the next to go.


def read(lease: Lease) -> dict[str, str]:
    place = Path(lease.path)
    paths = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


class Replica:
    def __init__(self, client: Client, known: dict[str, dict[str, str]]) -> None:
        self._client, self._known = client, known
        self._held: list[Lease] = []

    def turn(self, uri: str) -> str:
        """What came of one acquire, and of all that is held."""
        try:
            lease = self._client.acquire(uri, timeout=60.0)
        except (AllHeld, DaemonUnavailable) as error:
            wrong = self.release(0)  # Else they might all wait for one another.
            return wrong or ("refused" if isinstance(error, AllHeld) else "away")
        self._held.append(lease)
        wrong = self._wrong("I2", lease) or self.release(HELD)
        return wrong or ("hit" if lease.hit else "fetched")

    def release(self, keep: int) -> str:
        """All but the latest `keep`, each read again; what is wrong, if anything."""
        wrong = ""
        while len(self._held) > keep:
            lease = self._held.pop(0)
            wrong = wrong or self._wrong("I4", lease)
            lease.release()
        return wrong

    def _wrong(self, invariant: str, lease: Lease) -> str:
        try:
            right = read(lease) == self._known[lease.source]
        except OSError as error:
            return f"violation {invariant} {lease.source} is leased and cannot be read: {error.strerror}"
        return "" if right else f"violation {invariant} {lease.source} is leased and has other files"


def main(socket: str, models: str, seed: str) -> None:
    chance = random.Random(int(seed))
    known: dict[str, dict[str, str]] = json.loads(Path(models).read_text())
    uris = sorted(known)
    with Client(socket, timeout=30.0) as client:
        replica, said = Replica(client, known), ""
        # While there is no daemon, asking all the time would keep the next one from starting.
        while not select.select([sys.stdin], [], [], 0.1 if said == "away" else 0)[0]:
            uri = chance.choice(uris)
            try:
                said = replica.turn(uri)
            except Exception as error:
                said = f"violation rule {uri}: {type(error).__name__}: {error}"
            print(said, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
