"""Decide which files are fetched together: large ones alone, small ones many at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from cached.daemon.transfer.download import Download
from cached.model import Entry
from cached.worker.messages import Remote

SMALL = 1 << 20  # Bytes up to which files are fetched several at a time: their turns would cost more than their bytes.
BUNDLE = 64  # Files at most in one such turn.


class Bundles:
    """Group missing blobs into downloads. `running`: the downloads in progress, by key. `lanes`: the number of
    downloads to plan for, so that all connections are busy."""

    def __init__(self, running: Mapping[str, Download], lanes: int) -> None:
        self._running, self._lanes = running, lanes

    def joined(self, remote: Remote, wants: Mapping[str, Entry]) -> list[Entry]:
        """Return the entries of `wants` that are already being downloaded with other credentials."""
        running = {key: self._running[key] for key in wants if key in self._running}
        place, credentials = remote.listing.place, remote.credentials
        return [wants[key] for key, download in running.items() if not download.serves(place, credentials)]

    def planned(self, remote: Remote, wants: Mapping[str, Entry]) -> Iterator[Download]:
        """Yield downloads, planned some thousands of files at a time as the earlier ones are consumed, so that no hit
        waits for a plan of all files."""
        keys = iter(wants)
        while some := {key: wants[key] for key in itertools.islice(keys, self._lanes * BUNDLE)}:
            yield from self.plan(remote, some)

    def plan(self, remote: Remote, wants: dict[str, Entry]) -> list[Download]:
        """Return the running downloads to join, then new ones."""
        joined = {id(self._running[key]): self._running[key] for key in wants if key in self._running}
        new = {key: entry for key, entry in wants.items() if key not in self._running}
        small = [key for key, entry in new.items() if entry.size <= SMALL]
        step = min(BUNDLE, max(1, len(small) // self._lanes))
        bundles = [[key] for key in new if new[key].size > SMALL]
        bundles += [small[start : start + step] for start in range(0, len(small), step)]
        return [
            *joined.values(),
            *(
                Download(
                    {key: new[key] for key in keys},
                    remote.origin,
                    remote.listing.place,
                    remote.credentials,
                    remote.group,
                )
                for keys in bundles
            ),
        ]
