"""The client: it sends requests to the daemon and holds leases. Standard library only, because every replica imports
it.

`client.py` has the public class. `lease.py` holds a shared flock on the caller's own lock file, `connection_pool.py`
and `connection.py` keep connections to the socket across forks and restarts, `request.py` writes the request and
`replies.py` completes the answers.
"""
