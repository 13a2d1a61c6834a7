"""Acquire: answer a caller's request for a model.

    cache.py            decides: serve, ask the source again, prove access, fetch, serve stale, or refuse
    granting.py         with a listing: serve what is complete, prove what is not proved, fill the rest
    fill.py fill_job.py fetch the missing files and make a snapshot; a running fill and its waiters
    fills.py            all running fills: one for each ref and credentials
    authorization.py rights.py   which callers may have a snapshot, and the proof of it file by file
    placement.py        the disk that takes it
    loadable.py         the check that vLLM could load what is here
    request.py counters.py   the request; the counts of hits, misses and failures

A caller without access gets the same answer as for a model that does not exist. A second caller joins a running fill
only after its own credentials have been proved. An answer to one caller's credentials is never given to another.
"""
