"""Start-up: from the claim on the root to a store in which disk and index agree.

    root_lock.py preflight.py   claim the root, for one daemon at a time; refuse file systems that cannot do it
    upgrade.py                  bring older layouts up to date
    reconcile.py                the steps, in their order
    blob_scan.py manifest_scan.py tree_scan.py   what lies on the disk
    index_sync.py               make the rows what the disk says
    changed_blobs.py            read again what was written to meanwhile
    repair.py                   recover missing blobs from any snapshot that links them, then each snapshot
    strays.py                   what does not belong there goes to quarantine, or is reported
    clock_skew.py               times in the future are brought back to now
    read_only.py                a root whose file system is read-only serves from a copy of its index
    report.py                   what was done, for `cached doctor` and the log

Every step may be cut off and run again. Nothing is fetched here, and nothing is deleted that might be somebody's.
"""
