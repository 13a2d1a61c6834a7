"""The disks: what is on them, and room for what is to come."""
