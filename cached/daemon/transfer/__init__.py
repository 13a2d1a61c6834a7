"""Transfer: getting bytes, by way of workers.

fetcher.py download.py one download for each blob, however many wait for it scheduler.py fair_queue.py whose turn is it:
users, then models, then files, then pieces connection_limit.py users.py how many connections an origin bears (AIMD),
and a user's part of them open_files.py bundles.py files that are open at a time; small ones that go together workers.py
worker_pool.py what is asked of workers; the processes themselves publish_batcher.py small files are published a few
hundred at a time
"""
