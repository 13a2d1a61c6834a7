"""Access: the identity of a caller and the freshness of its rights. The uid comes from the kernel (SO_PEERCRED). The
credentials are the caller's own or, for users that the settings name (`people.py`), the daemon's. `callers.py` keeps
the two together, `whose.py` names the identity under which an answer is remembered, `standing.py` says how fresh a
proof is and what it permits."""
