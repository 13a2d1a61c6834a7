"""The index: `index.db`, a cache of what lies on the disk, and the one place where space is accounted for.

    database.py schema.py      the file, its connections and transactions; the tables, as migrations
    index.py hits.py           what is written; what is only read, on a connection that nothing else waits for
    resolutions.py fills.py    rows of names; rows of running fills, of what they count on and have reserved
    promises.py                room that is promised to fills before it is free
    trim.py                    how many rows of each kind are kept
    row_seals.py integrity.py  a checksum in each row that cannot be rebuilt; how damage to the file is found
    opening.py carry_over.py   open or replace the file; take over from a damaged one what the disk cannot say
    use_clock.py               the time of uses, which never jumps
    query_strings.py           query strings of URLs leave the index

One connection writes, from one thread at a time; two only read. A transaction is durable when it ends
(`synchronous=FULL`). What an error of SQLite means is decided in one place (`database._translated`). A migration that
has landed is never edited. The whole file may be lost: a start rebuilds it from the manifests, and asks the sources
again for the rest.
"""
