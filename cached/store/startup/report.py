"""What a start found and did, for the log and for whoever asks how the last start went."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Recovered:
    """Counts, all of them 0 where the last run had left everything in order.

    `index` is "new", "kept", "rebuilt: lost" or "rebuilt: damaged (why)".
    """

    index: str = "kept"
    snapshots: int = 0  # On this node now, `damaged` ones among them.
    damaged: int = 0  # Lack bytes that only the source has; the next fetch mends them in place.
    snapshots_restored: int = 0  # The index had lost them.
    snapshots_corrected: int = 0  # The index said something else of them than their manifest.
    snapshots_mended: int = 0  # Names in their directory, or their manifest, were missing or wrong.
    snapshots_removed: int = 0  # Removals that a crash interrupted, and what has no readable manifest.
    snapshots_lost: int = 0  # Rows without anything on the disk.
    blobs_regained: int = 0  # Found again, with the right sha256, under another name.
    blobs_damaged: int = 0  # Changed while nobody watched; in quarantine.
    blobs_checked: int = 0  # Read again because something had written to them.
    blobs_corrected: int = 0  # The index said something else of them than the disk.
    strays_removed: int = 0  # Files that nothing accounts for.
    strays_left: int = 0  # The same, but not ours to remove.
    rows_dropped: int = 0  # Of refs and remote files that were not what was written: the source is asked again.
    pins_inherited: int = 0  # From an index that was damaged.
    times_corrected: int = 0  # Rows dated after now: the clock was set back.
    parts_kept: int = 0  # Partial downloads that may be resumed.
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def changed(self) -> dict[str, int]:
        """The counts of what was not as it should be."""
        still = ("index", "snapshots", "damaged", "strays_left", "parts_kept", "seconds")
        return {name: count for name, count in asdict(self).items() if name not in still and count}
