"""Acquire: what becomes of a caller's wish for a model.

    cache.py            decides: serve, ask the source again, prove access, fetch, serve stale, or refuse
    granting.py         a listing is here: hand out what is complete, prove what is not proved, fill the rest
    fill.py fill_job.py fetch what is missing and make a snapshot; one that runs, and who waits for it
    fills.py            all that run: one for each ref and credentials
    authorization.py rights.py   who may have a snapshot, and how that is proved file by file
    placement.py        which disk takes it
    loadable.py         whether vLLM could load what is here
    request.py counters.py   what is asked for; how often it was here

A caller without access is answered as for a model that does not exist. A second caller joins a running fill only after
its own credentials have been proved. What one caller's credentials were told is nobody else's answer.
"""
