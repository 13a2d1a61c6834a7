"""Processes that talk to remotes and write ingests, so that the daemon's own interpreter is free to answer hits."""
