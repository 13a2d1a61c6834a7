"""Start-up: from the claim on the root to a store in which disk and index agree.

    root_lock.py preflight.py   claim the root for one daemon; refuse unfit directories, and file systems without flock
    upgrade.py                  upgrade a root of an older layout
    reconcile.py                the steps, in their order
    blob_scan.py manifest_scan.py tree_scan.py   scan the blobs, manifests and snapshot directories on the disk
    index_sync.py               correct the rows that differ from the disk
    changed_blobs.py            check the blobs that were written to while no daemon watched
    repair.py                   recover missing blobs from any snapshot that links them, then repair each snapshot
    strays.py                   delete, quarantine or report names that do not belong there
    clock_skew.py               clamp times that lie in the future
    read_only.py                serve a root on a read-only file system from a copy of its index
    report.py                   count what was done, for `cached doctor` and the log

Every step may be interrupted and run again. Nothing is fetched here, and nothing is deleted that might belong to
somebody else.
"""
