"""`pin`, `unpin`, `rm`, `gc` and `verify`: the commands that change the store. The daemon checks the user's rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from cached.cli import options
from cached.cli.inventory import holds
from cached.cli.output import digest, human_size, print_json, print_table, relative_time, size, text, warn
from cached.errors import CorruptBlob, NoSpace

Answer = Mapping[str, Any]
SHOWN_HELD = 5  # Names in one sentence; more would not be read.


def pin(
    ref: options.Ref, keep: options.Keep = None, as_json: options.Json = False, socket: options.Socket = None
) -> int:
    """Keep a snapshot from eviction, for ever or for some time."""
    with options.connect(socket) as client:
        answer = client.call("POST", "/v1/pin", {"ref": ref, "keep": keep})
    if as_json:
        print_json(answer)
    else:
        until = answer.get("pinned_until")
        print(f"Pinned {_name(answer)}" + (f" until {until} ({relative_time(until)})." if until else "."))
    return 0


def unpin(ref: options.Ref, as_json: options.Json = False, socket: options.Socket = None) -> int:
    """Let a pinned snapshot go when its space is needed."""
    with options.connect(socket) as client:
        answer = client.call("POST", "/v1/unpin", {"ref": ref})
    if as_json:
        print_json(answer)
    else:
        print(f"Unpinned {_name(answer)}.")
    return 0


def rm(
    ref: options.Ref,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Remove a snapshot, unless it is leased or pinned.

    Blobs that another snapshot shares stay. A refusal says who holds it.
    """
    with options.connect(socket, patient=True) as client:
        answer = client.call("POST", "/v1/remove", {"ref": ref, "dry_run": dry_run})
    if as_json:
        print_json(answer)
        return 0
    for snapshot in answer["removed"]:
        print(f"{'Would remove' if dry_run else 'Removed'} {_name(snapshot)}.")
    print(f"{'Would free' if dry_run else 'Freed'} {human_size(answer['freed'])}.")
    return 0


def gc(
    dry_run: options.DryRun = False,
    free: Annotated[
        int | None,
        typer.Option(
            "--free",
            metavar="SIZE",
            parser=options.parse_size,
            help="Free at least so much (20GiB, 500MB) on each root, the longest unused first; exit 5 if it cannot be.",
        ),
    ] = None,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Evict down to the low watermark, or free a given size.

    The least recently used go first; what is leased or pinned stays.
    """
    with options.connect(socket, patient=True) as client:
        answer = client.call("POST", "/v1/gc", {"dry_run": dry_run, "free": free})
        short = int(answer.get("short") or 0) if free is not None else 0
        held = _held(client.call("GET", "/v1/snapshots")["snapshots"]) if short > 0 else ""
    if as_json:
        print_json(answer)
    else:
        rows = [(digest(r["digest"]), text(r["source"]), size(r["size"]), text(r["reason"])) for r in answer["removed"]]
        print_table(("DIGEST", "SOURCE", "SIZE", "WHY"), rows)
        print(f"{'Would free' if dry_run else 'Freed'} {human_size(answer['freed'])}.")
    if free is None or short <= 0:
        return 0
    freed = "could be freed" if dry_run else "was freed"
    warn(f"Only {human_size(answer['freed'])} of {human_size(free)} {freed}, {human_size(short)} too little; {held}.")
    return NoSpace.exit_code


def _held(snapshots: Sequence[Answer]) -> str:
    """Return the snapshots that keep their space, and why, for a sentence."""
    kept = [f"{_name(snapshot)}, {holds(snapshot).replace(',', ' and ')}" for snapshot in snapshots if holds(snapshot)]
    if not kept:
        return "nothing else may go, because it is being fetched or is not the store's"
    more = f"; and {len(kept) - SHOWN_HELD} more, see `cached ls`" if len(kept) > SHOWN_HELD else ""
    return f"held: {'; '.join(kept[:SHOWN_HELD])}{more}"


def verify(
    ref: Annotated[
        str | None,
        typer.Argument(metavar="REF", callback=options.not_empty, help="A URI, a digest or a prefix; all if left out."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash with sha256 again, not only the stored checksums.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Quarantine damaged blobs and fetch them again.")] = False,
    as_json: options.Json = False,
    socket: options.Socket = None,
) -> int:
    """Check stored bytes against their checksums.

    Exit 6 on damage that is not repaired.
    """
    with options.connect(socket, patient=True) as client:
        answer = client.call("POST", "/v1/verify", {"ref": ref, "deep": deep, "repair": repair})
    damaged: Sequence[Answer] = answer["damaged"]
    left = [blob for blob in damaged if not blob.get("repaired")]
    if as_json:
        print_json(answer)
    else:
        headings = ("DIGEST", "PATH", "PROBLEM", "REPAIRED", "SNAPSHOTS")
        print_table(headings, map(_damage_row, damaged))
        print(f"Checked {_count(answer['checked'], 'blob')}, {human_size(answer['bytes'])}: {len(damaged)} damaged.")
    if not left:
        return 0
    mend = (
        "the daemon's log says why they were not repaired" if repair else "`cached verify --repair` fetches them again"
    )
    warn(f"Damage is left in {_count(len(left), 'blob')} on this node; {mend}.")
    return CorruptBlob.exit_code


def _damage_row(blob: Answer) -> tuple[Any, ...]:
    return (
        digest(blob["digest"]),
        text(blob.get("path")),
        text(blob.get("problem")),
        text("yes" if blob.get("repaired") else "no"),
        text(",".join(str(name) for name in blob.get("snapshots") or ())),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _name(snapshot: Answer) -> str:
    """Name a snapshot in a sentence: its source, and its short digest."""
    return f"{text(snapshot['source']).pretty} ({digest(snapshot['digest']).pretty})"
