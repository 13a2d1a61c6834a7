"""Sources: the only code that talks to remotes.

A source lists what a ref means right now (`resolve`), tells whether credentials open it, and reads ranges of its files
at the version that was listed, or not at all. `source.py` is the interface, `registry.py` finds the source of a scheme,
and no remote knows another:

    hub/ s3/ gcs/ azure/             one room each: the source, its listing, a fast reader, what its errors mean
    url.py local_files.py fsspec_source.py   http(s) URLs, files of the node, and whatever else fsspec knows
    transport/                       connections and requests for all of them

The fast path takes the plain good answer only: 2xx, the range that was asked for, the version that was listed,
uncompressed. Everything else is asked again with the full client of the source, which knows what it means. Sources run
in workers.

Held to it by tests/sources: one conformance suite for all, on real servers.
"""
