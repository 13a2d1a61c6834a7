"""The client: ask the daemon, hold leases. Standard library only, because it is imported into every replica.

`client.py` is the public class. `lease.py` holds a shared flock on the caller's own lock file, `connection_pool.py` and
`connection.py` keep connections to the socket across forks and restarts, `request.py` and `replies.py` are the two ends
of what goes over it.
"""
