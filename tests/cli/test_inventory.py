"""`ls`, `show`, `status`, `leases`: JSON as the daemon gave it, columns in a pipe, tables on a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .answers import GIB, lease, shown, snapshot, status
from .command import Command
from .wire_server import DIGEST, WireServer

ANSWERS: dict[str, tuple[str, Any]] = {
    "ls": ("GET /v1/snapshots", {"snapshots": [snapshot()]}),
    "show": ("GET /v1/snapshots/hf%3A//org/name%40main", shown()),
    "status": ("GET /v1/status", status()),
    "leases": ("GET /v1/leases", {"leases": [lease()]}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_json_is_one_line_with_the_fields_of_the_api(name: str, server: WireServer, cached: Command) -> None:
    verb, body = ANSWERS[name]
    server.answers[verb] = body
    answer = cached(name, *(["hf://org/name@main"] if name == "show" else []), "--json")
    assert answer.returncode == 0 and answer.stderr == "" and answer.stdout.count("\n") == 1
    assert json.loads(answer.stdout) == body


def test_ls_in_a_pipe_is_exact_columns(server: WireServer, cached: Command) -> None:
    older = snapshot(digest="sha256:" + "aa" * 32, used_at="2019-01-01T00:00:00Z", leased=True, pinned=True)
    server.answers["GET /v1/snapshots"] = {"snapshots": [older, snapshot()]}
    first, second = cached("ls").stdout.splitlines()
    size = str(3 * GIB // 2)
    assert first.split("\t") == [DIGEST, "hf://org/name", "a" * 40, size, "2", "2020-01-02T00:00:00Z", "ready", "-"]
    assert second.split("\t")[0] == older["digest"] and second.split("\t")[-1] == "leased,pinned"


def test_ls_on_a_terminal_is_a_table_for_people(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/snapshots"] = {"snapshots": [snapshot()]}
    code, table, _ = cached.on_terminal("ls", stream="stdout")
    assert code == 0
    assert "DIGEST" in table and "1.5 GiB" in table and " d ago" in table and "3f3f3f3f3f3f " in table
    assert DIGEST not in table


def test_empty_lists_are_nothing_in_a_pipe_and_a_sentence_on_a_terminal(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/snapshots"] = {"snapshots": []}
    server.answers["GET /v1/leases"] = {"leases": []}
    for name in ("ls", "leases"):
        assert cached(name).stdout == ""
        assert cached.on_terminal(name, stream="stdout")[1].count("\n") == 1


def test_show_tells_origin_files_holders_and_history(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/snapshots/3f3f"] = shown(pinned=True, pinned_until="2030-01-01T00:00:00Z")
    told = cached("show", "3f3f").stdout
    assert f"digest\t{DIGEST}\n" in told
    assert "path\t/srv/cached/snapshots/" in told
    assert "access\topened with callers' credentials\nfetched for\t1000\nusers\t1000, 1001\n" in told
    assert "pinned\t2030-01-01T00:00:00Z\n" in told
    assert f"model.safetensors\t{GIB}\tsha256:{'02' * 32}\n" in told
    assert "\t4711\t1000\t2020-01-02T00:00:00Z\tyes\tpython serve.py\n" in told
    assert "2020-01-01T00:00:00Z\tpublished\tpull\n" in told
    code, table, _ = cached.on_terminal("show", "3f3f", stream="stdout")
    assert code == 0 and "until 2030-01-01T00:00:00Z (" in table and "1.0 GiB" in table


def test_the_command_line_of_a_holder_cannot_steer_the_terminal(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/leases"] = {"leases": [lease(command="evil\x1b[2J[red]x\ty")]}
    assert cached("leases").stdout.split("\t")[-1] == "evil\ufffd[2J[red]x y\n"
    assert "evil\ufffd[2J[red]x y" in cached.on_terminal("leases", stream="stdout")[1]


def test_status_shows_health_space_and_fills(server: WireServer, cached: Command) -> None:
    fill = {"ref": "hf://org/name@main", "phase": "fetching", "done_bytes": GIB, "total_bytes": 2 * GIB}
    fill |= {"done_files": 1, "total_files": 4, "cached_bytes": 0}
    server.answers["GET /v1/status"] = status(healthy=False, reason="The disk failed.", fills=[fill])
    told = cached("status").stdout
    assert "healthy\tno: The disk failed.\n" in told and f"limit\t{100 * GIB}\n" in told and "hits\t7\n" in told
    assert f"hf://org/name@main\tfetching\t{GIB}\t{2 * GIB}\t1/4\n" in told
    assert "100.0 GiB" in cached.on_terminal("status", stream="stdout")[1]
