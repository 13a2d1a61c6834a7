"""`top`: rates come from two looks, and a pipe gets one line for each."""

from __future__ import annotations

import json

from cached.cli.top import SHOWN_LEASES

from .answers import GIB, lease, status
from .command import Command
from .wire_server import WireServer


def look_at(server: WireServer, leases: int = 1) -> None:
    fill = {"ref": "hf://org/name@main", "phase": "fetching", "done_bytes": GIB, "total_bytes": 2 * GIB}
    fill |= {"done_files": 1, "total_files": 4, "cached_bytes": 0}
    server.answers["GET /v1/status"] = status(fills=[fill])
    server.answers["GET /v1/leases"] = {"leases": [lease(pid=number) for number in range(leases)]}


def test_a_pipe_gets_one_line_of_json_for_each_look(server: WireServer, cached: Command) -> None:
    look_at(server)
    lines = cached("top", "--count", "3", "--interval", "1ms").stdout.splitlines()
    looks = [json.loads(line) for line in lines]
    assert len(looks) == 3
    assert {look["status"]["hits"] for look in looks} == {7}
    assert looks[1]["per_second"] == {"hits": 0.0, "misses": 0.0, "fetched_bytes": 0.0}
    assert looks[0]["leases"][0]["source"] == "hf://org/name"


def test_a_terminal_gets_a_screen(server: WireServer, cached: Command) -> None:
    look_at(server, leases=SHOWN_LEASES + 5)
    code, shown, _ = cached.on_terminal("top", "--count", "1", stream="stdout")
    assert code == 0
    assert "10.0 GiB used" in shown and "hf://org/name@main" in shown and "0.0 hits/s" in shown
    assert "and 5 more" in shown


def test_a_daemon_that_is_not_there_ends_it(alone: Command) -> None:
    assert alone("top").returncode == 69
