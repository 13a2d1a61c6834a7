"""A replica: the models that it acquires before its engine starts, and holds for as long as it runs.

    acquire.py                     acquire a model from the daemon of this node
    replica_lease.py node_lease.py leases for the life of a replica, here, and in an actor on each other node
    auxiliary.py remote_code.py    another tokenizer, a draft model; code that is beside a model
    extra_files.py                 the files that a mirror copies beside the model
    prefetch_policy.py             the choice to read ahead of the engine's loader
    report.py                      the cost of a start: a log line, and metrics beside Serve's own

An error names the model that is not here and cannot be fetched. Without a daemon Ray loads from the source, where
`fallback` allows it.
"""
