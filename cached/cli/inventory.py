"""`ls`, `show`, `status` and `leases`: the node's snapshots, and the processes that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cached.cli import options
from cached.cli.output import (
    Cell,
    digest,
    human_seconds,
    print_fields,
    print_json,
    print_table,
    relative_time,
    size,
    text,
    time,
)
from cached.errors import NotCached

Answer = Mapping[str, Any]


def ls(as_json: options.Json = False, socket: options.Socket = None) -> int:
    """List the snapshots on this node, the most recently used first.

    Administrators see all of them; others those that are open, or that they have proved they may read.
    In a pipe: digest, source, revision, size, files, last use, state and holds, separated by tabs.
    """
    with options.connect(socket) as client:
        answer = client.call("GET", "/v1/snapshots")
    if as_json:
        print_json(answer)
        return 0
    found = sorted(answer["snapshots"], key=lambda snapshot: str(snapshot.get("used_at") or ""), reverse=True)
    headings = ("DIGEST", "SOURCE", "REVISION", "SIZE", "FILES", "USED", "STATE", "HELD")
    print_table(headings, map(_snapshot_row, found), empty="No models yet; `cached pull URI` fetches one.")
    return 0


def _snapshot_row(snapshot: Answer) -> tuple[Cell, ...]:
    revision = str(snapshot.get("revision") or "")
    return (
        digest(snapshot["digest"]),
        text(snapshot["source"]),
        Cell(text(revision[:12]).pretty, text(revision).plain),
        size(snapshot["size"]),
        text(snapshot["files"]),
        time(snapshot.get("used_at")),
        text(snapshot["state"]),
        text(holds(snapshot)),
    )


def holds(snapshot: Answer) -> str:
    """Return the reasons that keep a snapshot from eviction: `leased`, `pinned`, both, or nothing."""
    return ",".join(name for name in ("leased", "pinned") if snapshot.get(name))


def show(ref: options.Ref, as_json: options.Json = False, socket: options.Socket = None) -> int:
    """Show one snapshot: origin, files, holders and history.

    Exit 3 if it is no longer here; what became of it, and why, is shown as far as it is remembered. Of what others do
    with it administrators alone are told: other users see when it was damaged, and no holders but themselves.
    """
    with options.connect(socket) as client:
        answer = client.call("GET", f"/v1/snapshots/{quote(ref, safe=':/@')}")
    gone = answer["state"] == "gone"
    if as_json:
        print_json(answer)
    else:
        print_fields(_gone_fields(answer) if gone else _snapshot_fields(answer))
        for heading, rows in _snapshot_parts(answer):
            if rows:
                print()
                print_table(heading, rows)
    return NotCached.exit_code if gone else 0


def _gone_fields(snapshot: Answer) -> list[tuple[str, Cell]]:
    return [(name, text(snapshot[name])) for name in ("digest", "source", "state")]


def _snapshot_fields(snapshot: Answer) -> list[tuple[str, Cell]]:
    whole = text(snapshot["digest"])
    pinned = "yes" if snapshot.get("pinned") else "no"
    until = snapshot.get("pinned_until")
    pin = Cell(f"until {until} ({relative_time(until)})", until) if until and snapshot.get("pinned") else text(pinned)
    return [
        ("digest", whole),
        ("source", text(snapshot["source"])),
        ("revision", text(snapshot.get("revision"))),
        ("state", text(snapshot["state"])),
        ("path", text(snapshot.get("path"))),
        ("root", text(snapshot.get("root"))),
        ("size", size(snapshot["size"])),
        ("unique", size(snapshot.get("unique_bytes"))),
        ("shared", size(snapshot.get("shared_bytes"))),
        ("files", text(snapshot["files"])),
        ("created", time(snapshot.get("created_at"))),
        ("used", time(snapshot.get("used_at"))),
        ("leased", text("yes" if snapshot.get("leased") else "no")),
        ("pinned", pin),
        ("access", text(_ACCESS.get(str(snapshot.get("access")), "unknown until the source is asked"))),
        ("fetched for", text(snapshot.get("brought_by"))),
        ("users", text(", ".join(str(each["uid"]) for each in snapshot.get("entrants") or ()))),
        ("names", text(", ".join(snapshot.get("refs") or ()))),
    ]


_ACCESS = {
    "open": "open to everybody",
    "own": "opened with the daemon's own credentials",
    "caller": "opened with callers' credentials",
}


def _snapshot_parts(snapshot: Answer) -> list[tuple[Sequence[str], Sequence[Sequence[Cell]]]]:
    files = [(text(f["path"]), size(f["size"]), digest(f["digest"])) for f in snapshot.get("manifest") or ()]
    holders = [lease_row(holder)[1:] for holder in snapshot.get("holders") or ()]
    history = [(time(e.get("at")), text(e.get("what")), text(e.get("why"))) for e in snapshot.get("history") or ()]
    return [
        (("PATH", "SIZE", "DIGEST"), files),
        (LEASE_HEADINGS[1:], holders),
        (("WHEN", "WHAT", "WHY"), history),
    ]


LEASE_HEADINGS = ("SOURCE", "DIGEST", "PID", "UID", "SINCE", "HELD", "COMMAND")


def leases(as_json: options.Json = False, socket: options.Socket = None) -> int:
    """List who holds which model; to other users than administrators, what they hold themselves.

    The kernel's lock decides (`held`); process and time are what the daemon noted when the lease was taken.
    """
    with options.connect(socket) as client:
        answer = client.call("GET", "/v1/leases")
    if as_json:
        print_json(answer)
        return 0
    print_table(LEASE_HEADINGS, map(lease_row, answer["leases"]), empty="Nobody holds a model.")
    return 0


def lease_row(lease: Answer) -> tuple[Cell, ...]:
    return (
        text(lease.get("source")),
        digest(lease.get("digest")),
        text(lease.get("pid")),
        text(lease.get("uid")),
        time(lease.get("since")),
        text(_held(lease)),
        text(lease.get("command")),
    )


def _held(lease: Answer) -> str:
    """Return `no` unless the kernel's lock is held; else `yes`, or `yes, reopen` if files were replaced that the holder
    should open again."""
    if not lease.get("held"):
        return "no"
    return "yes, reopen" if lease.get("reopen") else "yes"


def status(as_json: options.Json = False, socket: options.Socket = None) -> int:
    """Say how the daemon is: health, space, running fills and counts."""
    with options.connect(socket) as client:
        answer = client.call("GET", "/v1/status")
    if as_json:
        print_json(answer)
        return 0
    print_fields(_status_fields(answer))
    if len(answer["roots"]) > 1:
        print()
        print_table(("ROOT", "LIMIT", "USED", "RESERVED", "FREE", "SNAPSHOTS", "WHY"), map(_root_row, answer["roots"]))
    if answer["fills"]:
        print()
        print_table(FILL_HEADINGS, map(fill_row, answer["fills"]))
    return 0


def _status_fields(answer: Answer) -> list[tuple[str, Cell]]:
    health = "yes" if answer["healthy"] else f"no: {answer.get('reason')}"
    uptime = float(answer.get("uptime") or 0)
    return [
        ("version", text(answer["version"])),
        ("healthy", text(health)),
        ("up", Cell(human_seconds(uptime), f"{uptime:.0f}")),
        ("root", text(answer["root"])),
        *((name, size(answer[name])) for name in ("limit", "used", "reserved", "free", "quarantined")),
        *((name, text(answer[name])) for name in ("snapshots", "blobs", "damaged", "leases", "hits", "misses")),
        ("fetched", size(answer["fetched_bytes"])),
        ("fills", text(len(answer["fills"]))),
        ("scrubbed", size(answer["scrubbed_bytes"])),
        ("workers", text(len(answer["workers"]))),
    ]


def _root_row(root: Answer) -> tuple[Cell, ...]:
    sizes = (size(root.get(name)) for name in ("limit", "used", "reserved", "free"))
    return (text(root["root"]), *sizes, text(root.get("snapshots")), text(root.get("reason") or "well"))


FILL_HEADINGS = ("SOURCE", "PHASE", "DONE", "TOTAL", "FILES")


def fill_row(fill: Answer) -> tuple[Cell, ...]:
    return (
        text(fill.get("ref")),
        text(fill.get("phase")),
        size(fill.get("done_bytes")),
        size(fill.get("total_bytes")),
        text(f"{fill.get('done_files', 0)}/{fill.get('total_files', 0)}"),
    )
