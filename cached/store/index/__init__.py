"""The index: `index.db`, a cache of the state of the disk, and the one place where space is accounted for.

    database.py schema.py      the file, its connections and transactions; the tables, as migrations
    index.py hits.py           write rows; query them, on a connection that nothing else waits for
    resolutions.py fills.py    rows of refs; rows of running fills, of the blobs they hold and the space they reserve
    promises.py                space that is promised to fills before it is free
    trim.py                    limit the number of rows of each kind
    row_seals.py integrity.py  a checksum in each row that cannot be rebuilt; detect damage to the file
    opening.py carry_over.py   open or replace the file; copy from a damaged one the rows that the disk cannot supply
    use_clock.py               the clock for uses, which never jumps
    first_tables.py            the tables of the first migration, on which all others build
    query_strings.py           remove query strings of URLs from the index
    sqlite_library.py          sqlite-utils, imported without numpy and pandas

One connection writes, from one thread at a time; two only read. A transaction is durable when it ends
(`synchronous=FULL`). Errors of SQLite are translated in one place (`database._translated`). A migration that has landed
is never edited. The whole file may be lost: a start rebuilds it from the manifests, and queries the sources again for
the rest.
"""
