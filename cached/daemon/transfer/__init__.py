"""Transfer: receive the bytes of blobs, by way of workers.

fetcher.py download.py network.py  one download for each blob, however many callers wait for it
scheduler.py fair_queue.py      the order of reads: users, then models, then files, then pieces
connection_limit.py users.py    the connections that an origin bears (AIMD), and a user's part of them
open_files.py bundles.py        the files that are open at a time; small files that are fetched together
workers.py worker_pool.py       the requests to workers; the worker processes themselves
publish_batcher.py              small files are published a few hundred at a time
"""
