"""Space: the disks, and room on them.

    disk.py disks.py           one root and its threads; all roots, and the search for a model on them
    reservation.py running.py  room for a fill; one running fill gives way to another
    steps.py                   room for the next bytes, acquired as they are received
    books.py eviction_policy.py   the state of a disk and its meaning; the order of eviction. Pure: no I/O
    accounts.py                the bytes that count towards each user's share. Pure
    evictor.py                 read the state, choose, evict
    greed.py needs.py          a bound on a user's bytes, to check its share; the needs of a listing
    usage_log.py               uses and holders, kept in memory and flushed together

A snapshot promised to a fill is evicted only when the fill's bytes are received. A plan and its execution are computed
by the same function. A snapshot that is leased, pinned or being filled is never evicted. As long as the shares of all
users fit, no snapshot of a user within its share is evicted.
"""
