"""A replica: what it acquires before its engine starts, and keeps for as long as it runs.

    acquire.py                     acquire a model from the daemon of this node
    replica_lease.py node_lease.py leases for the life of a replica, here, and in an actor on each other node
    auxiliary.py remote_code.py    another tokenizer, a draft model; code that lies beside a model
    extra_files.py                 what a mirror copies beside the model
    prefetch_policy.py             whether reading ahead helps the engine's loader
    report.py                      what a start took: a log line, and metrics beside Serve's own

What is not here and cannot be fetched is said by the name of the model, and Ray goes its own way where `fallback` lets
it.
"""
