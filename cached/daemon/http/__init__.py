"""What the daemon answers over its socket."""
