"""The workers: processes that resolve, prove access, fetch and hash, so that the daemon's interpreter is free for hits.

`messages.py` defines everything that crosses between them and the daemon, over `channel.py`; `process.py` runs one.
`large_file.py` and `small_files.py` write the bytes that are received, `blob_reader.py` reads them from another root,
`ahead.py` requests room from the daemon before they are written, `proving.py` checks that credentials open files,
`check.py` reads cached blobs again, `policy.py` and `shards.py` decide which files of a listing may be fetched and
check that it is complete, `byte_counts.py` reports progress. Workers write into the store's ingests, and name nothing
in it. When one dies, all are replaced.
"""
