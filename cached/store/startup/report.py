"""Counts of what a start found and did, for the log and for requests about the last start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Recovered:
    """Count what a start found and did. All counts of corrections (`changed`) are 0 where the last run left everything
    in order.

    `index` is "new", "kept", "rebuilt: lost" or "rebuilt: damaged (why)".
    """

    index: str = "kept"
    snapshots: int = 0  # On this node now, `damaged` ones included.
    damaged: int = 0  # Lack bytes that only the source has; the next fetch repairs them in place.
    snapshots_restored: int = 0  # Missing from the index; added again.
    snapshots_corrected: int = 0  # Rows that differed from their manifest.
    snapshots_mended: int = 0  # Repaired: names in their directory, or their manifest, were missing or wrong.
    snapshots_removed: int = 0  # Interrupted removals, and snapshots without a readable manifest.
    snapshots_lost: int = 0  # Rows without anything on the disk.
    blobs_regained: int = 0  # Recovered, with the right sha256, from another name.
    blobs_damaged: int = 0  # Changed while no daemon watched; quarantined.
    blobs_checked: int = 0  # Read again because they had been written to.
    blobs_corrected: int = 0  # Rows that differed from the disk.
    strays_removed: int = 0  # Files that nothing accounts for.
    strays_left: int = 0  # Files that nothing accounts for, but that are not ours to remove.
    rows_dropped: int = 0  # Refs and remote files with a broken seal: the source is queried again.
    pins_inherited: int = 0  # Taken over from a damaged index.
    times_corrected: int = 0  # Rows dated after now, because the clock was set back.
    parts_kept: int = 0  # Partial downloads that may be resumed.
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def changed(self) -> dict[str, int]:
        """The non-zero counts of corrections, by name."""
        still = ("index", "snapshots", "damaged", "strays_left", "parts_kept", "seconds")
        return {name: count for name, count in asdict(self).items() if name not in still and count}
