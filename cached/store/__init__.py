"""The store: everything below one root, and the only code that touches it.

The disk is right, and the index follows. Whatever a crash, a full disk or a lost index leaves, a start makes the two
agree from what lies on the disk, and no row, path or reply ever promises bytes that are not there and verified.

Rooms, from the top; calls go down (import-linter holds it):

    store.py                      Store: what must happen to disk and index together, in the order that survives a crash
    startup/                      what a start does, from the claim on the root to the last repaired snapshot
    publish.py permissions.py     verified blobs get names and rows; who may enter a snapshot's directory
    proofs.py usage.py            when whose credentials opened what; how many bytes are taken, and how many may be
    index/                        index.db: names, fills, reservations, uses
    snapshots/ overhead.py        trees of hard links, their leases and ACLs; what they take beside blobs
    blobs/                        verified bytes under their digests, partial downloads, quarantine
    private.py disk.py layout.py  files of the daemon alone, errors of the disk, names of everything
    equal_parts.py                something divided among those who want different amounts of it

Publish: write and hash, check size and digest, fsync, chmod 0444, rename, fsync the directory, write the row. Remove:
delete the row, rename into `trash`, unlink. So a crash may leave a stray file, and never a row without its bytes.

Locks are taken in this order, some left out: the change of leases (`Leases.exclusive` and `make`), publishing
(`Store`), `Entrants`, the index's transaction, `locks.trying`. Everything here is synchronous; the daemon calls it in
threads, and workers write blobs by themselves.

Held to it by tests/store, and by tests/faults, which ends the process between any two system calls.
"""
