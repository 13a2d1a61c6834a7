"""Integrity: reading again what is here, and what follows when it is not what it was.

`watch.py` notices writes behind the daemon's back (inotify), `tamper.py` has those files checked at once, `scrub.py`
reads everything again in the background, `verify.py` when an operator asks; `check.py` is one blob read again, by a
worker; `repair.py` has damaged ones fetched again. A blob is never condemned while its sha256 is right.
"""
