"""The socket: HTTP with JSON, and the only place where either is known.

`server.py` and `guests.py` accept connections and bound the number that each user may hold open; `api.py` has the
verbs, with `acquire_request.py`, `acquiring.py`, `admin.py`, `inventory.py`, `plans.py` and `metrics.py`;
`visibility.py` decides which snapshots are visible to a user; `answers.py` writes long answers in a thread;
`versions.py` handles the requests of older and newer clients; `peer.py` asks the kernel for the peer of a connection.
"""
