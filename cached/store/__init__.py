"""The store: everything below one root, and the only code that touches it.

The disk is right, and the index follows. After a crash, a full disk or the loss of the index, a start makes the two
agree from the state of the disk. No row, path or reply ever promises bytes that are not there and verified.

Rooms, from the top; calls go down (import-linter enforces it):

    store.py                      Store: changes to disk and index together, in the order that survives a crash
    startup/                      the steps of a start, from the claim on the root to the last repaired snapshot
    publish.py permissions.py     give verified blobs names and rows; control who may enter a snapshot's directory
    proofs.py usage.py            when credentials last opened something; how many bytes are used, and how many may be
    index/                        index.db: names, fills, reservations, uses
    snapshots/ overhead.py        trees of hard links, their leases and ACLs; the space they take beside blobs
    blobs/                        verified bytes under their digests, partial downloads, quarantine
    private.py disk.py layout.py  files that only the daemon may open, errors of the disk, paths of everything
    equal_parts.py                divide an amount among users that want different amounts of it

Publish: write and hash, check size and digest, fsync, chmod 0444, rename, fsync the directory, write the row. Remove:
delete the row, rename into `trash`, unlink. So a crash may leave a stray file, and never a row without its bytes.

Locks are acquired in this order, some left out: the change of leases (`Leases.exclusive` and `make`), publishing
(`Store`), `Entrants`, the index's transaction, `locks.trying`. Everything here is synchronous; the daemon calls it in
threads, and workers write blobs by themselves.

All of this is tested by tests/store, and by tests/faults, which ends the process between any two system calls.
"""
