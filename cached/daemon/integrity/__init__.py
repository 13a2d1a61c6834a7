"""Integrity: check stored bytes again, and repair damage.

`watch.py` notices writes behind the daemon's back (inotify), `tamper.py` has those files checked at once, `scrub.py`
checks everything again in the background, `verify.py` when an operator requests it; `check.py` checks one blob, by a
worker; `repair.py` has damaged blobs fetched again. A blob is never quarantined while its sha256 is right.
"""
