"""Runtime: what the whole daemon stands on. `threads.py` is the one door from the event loop to threads,
`background.py` runs what never ends, `shares.py` gives each user its share of what is scarce, `peer.py` says who is
at the other end of a socket, `endings.py` looks at results that nobody waits for any more, `sd_notify.py` tells
systemd.
"""
