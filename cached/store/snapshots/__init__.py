"""Snapshots: directories of hard links to blobs, which callers are given, and the leases on them.

    snapshots.py         build, repair and remove them; their manifests
    leases.py locks.py   a lock file for each user of a snapshot; the holders of a lock, as the kernel reports them
    directory_locks.py   leases on a root that cannot be written to, where no lock file can be made
    acl.py               access to a directory or a file, as POSIX ACLs

A snapshot's name is the digest of its manifest. It is built under a temporary name and becomes visible by one rename. A
lease is a shared flock that a client holds: the daemon never acquires one, it only excludes them before it removes
anything, so a crash of the daemon releases no lease, and a crash of a client releases its own.
"""
