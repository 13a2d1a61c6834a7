"""The daemon: one process for each node, an event loop that answers, and threads for the store.

    main.py      start, stop, and what runs in the background
    http/        the verbs of the socket; JSON is read and written here alone
    integrity/   watch, scrub and verify what is here, and repair it
    acquire/     a hit, or a fill and all who wait for it
    transfer/    downloads: whose turn is it, over which connection, by which worker
    access/      who asks, with whose credentials, and how fresh their proof is
    space/       the disks: room for what comes, and what has to go for it
    runtime/     threads, background tasks, shares, systemd's notifications

Hits are answered on the event loop, from memory and an index connection of their own; whatever may take long runs in a
thread (the store) or in a worker process (hashing, TLS, listings). Nothing that one caller does may keep the others
waiting.
"""
