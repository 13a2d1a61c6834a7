"""Sources: the only code that talks to remotes.

A source lists the present meaning of a ref (`resolve`), checks that credentials open it, and reads ranges of its files
at the version that was listed, or not at all. `source.py` is the interface, `registry.py` finds the source of a scheme,
and no remote knows another:

    hub/ s3/ gcs/ azure/             one package each: the source, its listing, a fast reader, its errors
    url.py local_files.py fsspec_source.py   http(s) URLs, files of the node, and any other protocol of fsspec
    transport/                       connections and requests for all of them

The fast path accepts only the plain good answer: 2xx, the requested range, the listed version, uncompressed. All other
requests are repeated with the full client of the source, which understands the answer. Sources run in workers.

Tested by tests/sources: one conformance suite for all, on real servers.
"""
