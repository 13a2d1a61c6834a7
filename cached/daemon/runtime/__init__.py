"""Runtime: the foundations of the daemon. `threads.py` is the one door from the event loop to threads, `background.py`
runs tasks that never end, `shares.py` gives each user a share of scarce turns, `peer.py` identifies the other end of a
socket, `endings.py` retrieves results that no caller waits for any more, `sd_notify.py` notifies systemd."""
