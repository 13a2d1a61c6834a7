"""The workers: processes that resolve, prove, fetch and hash, so that the daemon's interpreter is free for hits.

`messages.py` is all that goes between them and the daemon, over `channel.py`; `process.py` runs one. `large_file.py`,
`small_files.py` and `blob_reader.py` write what comes, `ahead.py` asks the daemon for room before it does, `proving.py`
asks whether credentials open files, `check.py` reads again what is here, `policy.py` and `shards.py` know what may be
fetched of a listing and whether it is whole, `byte_counts.py` reports how far everything is. They write into the
store's ingests, and name nothing in it. When one dies, all are replaced.
"""
