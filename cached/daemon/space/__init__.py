"""Space: the disks, and room on them.

    disk.py disks.py           a root and its threads; all of them, and which one has a model
    reservation.py running.py  room for a fill, and how one gives way to another
    steps.py                   room for the next bytes, taken as they come
    books.py eviction_policy.py   what there is and what that means; who has to go. Pure: no I/O
    accounts.py                what counts towards whose share. Pure
    evictor.py                 look, choose, act
    greed.py needs.py          whether a user is above its share; what a listing needs
    usage_log.py               uses and holders, kept in memory and flushed together

What is promised to a fill goes only when its bytes come; a plan is the same function as the deed. Nothing goes that is
leased, pinned or being filled. As long as the shares of all users fit, nothing goes of who stays within its own.
"""
