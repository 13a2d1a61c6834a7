"""The `cached` command. It talks to the daemon through the client; only `serve` is the daemon.

main.py options.py     what there is to type, and what each ending means to the shell; options that several share
serving.py             `serve`
transfer.py planning.py progress.py   `pull`, `path`; `pull --dry-run`; the bar
inventory.py top.py    `ls`, `show`, `status`, `leases`; `top`
admin.py               `pin`, `unpin`, `rm`, `gc`, `verify`: the daemon decides who may
doctor.py              `doctor`, with node.py, modes.py and last_start.py: what is wrong, and how to set it right
output.py              tables on a terminal, columns in a pipe, JSON
"""
