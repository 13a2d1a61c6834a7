"""`pin`, `unpin`, `rm`, `gc`, `verify`: what is asked of the daemon, and what its answer is worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .answers import GIB, snapshot
from .command import Command
from .wire_server import DIGEST, WireServer

GONE = {"digest": DIGEST, "source": "hf://org/name", "size": GIB, "reason": "least recently used"}


def damage(repaired: bool) -> dict[str, Any]:
    found = {"digest": "sha256:" + "02" * 32, "path": "blobs/02/02", "problem": "digest differs"}
    return {"checked": 3, "bytes": 3 * GIB, "damaged": [{**found, "snapshots": [DIGEST], "repaired": repaired}]}


def test_pin_sends_seconds_and_says_until_when(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/pin"] = snapshot(pinned=True, pinned_until="2030-01-01T00:00:00Z")
    answer = cached("pin", "hf://org/name@main", "--keep", "7d")
    assert server.requests[0] == ("POST /v1/pin", {"ref": "hf://org/name@main", "keep": 604800})
    assert answer.stdout.startswith("Pinned hf://org/name (3f3f3f3f3f3f) until 2030-01-01T00:00:00Z (in ")


def test_pin_without_a_time_is_for_ever(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/pin"] = snapshot(pinned=True)
    assert cached("pin", "3f3f").stdout == "Pinned hf://org/name (3f3f3f3f3f3f).\n"
    assert server.requests[0][1]["keep"] is None


def test_unpin_says_what_it_let_go(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/unpin"] = snapshot()
    assert cached("unpin", "3f3f").stdout == "Unpinned hf://org/name (3f3f3f3f3f3f).\n"


@pytest.mark.parametrize(("flags", "said"), [([], "Removed"), (["--dry-run"], "Would remove")])
def test_rm_says_what_went_and_what_it_freed(flags: list[str], said: str, server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/remove"] = {"removed": [snapshot()], "freed": GIB}
    answer = cached("rm", "3f3f", *flags)
    assert server.requests[0][1] == {"ref": "3f3f", "dry_run": bool(flags)}
    assert answer.stdout.splitlines()[0] == f"{said} hf://org/name (3f3f3f3f3f3f)."
    assert answer.stdout.splitlines()[1].endswith("1.0 GiB.")


def test_gc_lists_what_goes_and_why(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/gc"] = {"removed": [GONE], "freed": GIB, "short": 0}
    answer = cached("gc", "--free", "500MB", "--dry-run")
    assert answer.returncode == 0 and answer.stderr == ""
    assert server.requests[0][1] == {"dry_run": True, "free": 500_000_000}
    assert answer.stdout == f"{DIGEST}\thf://org/name\t{GIB}\tleast recently used\nWould free 1.0 GiB.\n"


def test_gc_that_cannot_free_enough_exits_5_and_says_how_much_is_missing(server: WireServer, cached: Command) -> None:
    body = {"removed": [GONE], "freed": GIB, "short": 3 * GIB}
    server.answers["POST /v1/gc"] = body
    server.answers["GET /v1/snapshots"] = {"snapshots": [snapshot(), snapshot(source="s3://b/held", leased=True)]}
    answer = cached("gc", "--free", "4GiB", "--json")
    assert answer.returncode == 5 and json.loads(answer.stdout) == body
    assert answer.stderr == (
        "cached: Only 1.0 GiB of 4.0 GiB was freed, 3.0 GiB too little; held: s3://b/held (3f3f3f3f3f3f), leased.\n"
    )


def test_gc_names_a_few_of_many_holders(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/gc"] = {"removed": [], "freed": 0, "short": GIB}
    many = [snapshot(source=f"s3://b/{n}", pinned=True, leased=True) for n in range(9)]
    server.answers["GET /v1/snapshots"] = {"snapshots": many}
    told = cached("gc", "--free", "1GiB", "--dry-run").stderr
    assert told.count("leased and pinned") == 5 and told.endswith("; and 4 more, see `cached ls`.\n")
    server.answers["GET /v1/snapshots"] = {"snapshots": []}
    assert "nothing else may go" in cached("gc", "--free", "1GiB").stderr


def test_gc_to_the_watermark_does_not_fail_for_what_is_held(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/gc"] = {"removed": [], "freed": 0, "short": 0}
    assert cached("gc").returncode == 0
    assert server.requests[0][1] == {"dry_run": False, "free": None}


def test_verify_of_a_sound_store_exits_0(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/verify"] = {"checked": 1, "bytes": GIB, "damaged": []}
    answer = cached("verify")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "Checked 1 blob, 1.0 GiB: 0 damaged.\n", "")
    assert server.requests[0][1] == {"ref": None, "deep": False, "repair": False}


def test_verify_exits_6_on_damage_that_is_left(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/verify"] = damage(repaired=False)
    answer = cached("verify", "org/name", "--deep")
    assert answer.returncode == 6
    assert server.requests[0][1] == {"ref": "org/name", "deep": True, "repair": False}
    assert "digest differs\tno\t" + DIGEST in answer.stdout
    assert "--repair" in answer.stderr


def test_verify_exits_0_once_the_damage_is_repaired(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/verify"] = damage(repaired=True)
    answer = cached("verify", "--repair", "--json")
    assert answer.returncode == 0 and answer.stderr == ""
    assert json.loads(answer.stdout) == damage(repaired=True)
