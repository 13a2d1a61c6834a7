"""The socket: HTTP with JSON, and the only place where either is known.

`server.py` and `guests.py` let connections in and bound what each user may hold open; `api.py` has the verbs, with
`acquire_request.py`, `acquiring.py`, `admin.py`, `inventory.py`, `plans.py` and `metrics.py`; `visibility.py` decides
what a user may hear of; `answers.py` writes long answers in a thread; `versions.py` is what older and newer clients may
say; `peer.py` asks the kernel who calls.
"""
