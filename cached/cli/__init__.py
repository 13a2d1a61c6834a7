"""The `cached` command. It talks to the daemon through the client; only `serve` is the daemon.

main.py options.py     the commands, and the exit code of each outcome; options that several share
serving.py             `serve`
transfer.py planning.py progress.py   `pull`, `path`; `pull --dry-run`; the bar
inventory.py top.py    `ls`, `show`, `status`, `leases`; `top`
admin.py               `pin`, `unpin`, `rm`, `gc`, `verify`: the daemon checks the user's rights
doctor.py              `doctor`, with node.py, modes.py and last_start.py: problems, and how to repair them
output.py              tables on a terminal, columns in a pipe, JSON
"""
