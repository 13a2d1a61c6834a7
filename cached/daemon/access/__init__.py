"""Access: who asks. The uid is the kernel's word (SO_PEERCRED), the credentials are the caller's own or, for those whom
the settings name (`people.py`), the daemon's. `callers.py` keeps the two together, `whose.py` says under whose name
an answer is remembered, `standing.py` how fresh a proof is and what may be done with it.
"""
