"""The `cached` command. It talks to the daemon through the client; only `serve` is the daemon."""
