"""The repairs of the daemon's last start, as a check of `doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cached.cli.node import Check

# Repairs, the most important to an operator first; the daemon's names for them on the left.
_PUT_RIGHT = {
    "blobs_damaged": "damaged blobs put into quarantine",
    "snapshots_lost": "snapshots gone from the disk",
    "snapshots_removed": "removals finished",
    "snapshots_restored": "snapshots found again",
    "snapshots_mended": "snapshots mended",
    "snapshots_corrected": "snapshots' rows corrected",
    "blobs_regained": "blobs found again",
    "blobs_corrected": "blobs' rows corrected",
    "blobs_checked": "blobs checked because something had written to them",
    "pins_inherited": "pins taken over from the damaged index",
    "rows_dropped": "rows dropped that were not what was written",
    "times_corrected": "times after now set back",
    "strays_removed": "stray files removed",
}


def check_last_start(recovered: Mapping[str, Any]) -> Check:
    """Return a warning where something is lost or needs an operator; repairs alone are only listed."""
    told = [f"{recovered[name]} {what}" for name, what in _PUT_RIGHT.items() if recovered.get(name)]
    detail = f"Put right: {', '.join(told)}." if told else "Nothing had to be put right."
    if recovered.get("damaged"):
        mend = "`cached verify --repair` fetches again what they lack; until then they are not handed out."
        return Check("last start", "warn", f"{recovered['damaged']} snapshots are damaged. {detail}", mend)
    index = str(recovered.get("index", "kept"))
    if index.startswith("rebuilt"):
        mend = "See `cached ls` for what is pinned, and pin again what was: only the index knew."
        if "damaged" in index:
            mend = f"Check the disk (`dmesg`, `smartctl`); the damaged index is kept in quarantine. {mend}"
        return Check(
            "last start", "warn", f"The index was {index}; models were taken over from the disk. {detail}", mend
        )
    if recovered.get("blobs_damaged"):
        return Check(
            "last start", "warn", detail, "Check the disk (`dmesg`, `smartctl`), and who may write to the root."
        )
    if recovered.get("strays_left"):
        mend = "The daemon's log names them (`store.stray`); move away what is not cached's."
        return Check("last start", "warn", f"{recovered['strays_left']} foreign names lie in the root. {detail}", mend)
    return Check("last start", "ok", detail)
