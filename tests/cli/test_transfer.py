"""`pull` and `path`: the directory on stdout, everything else on stderr."""

from __future__ import annotations

import json

from cached.errors import NotCached
from cached.model import Progress

from .command import Command
from .wire_server import DIGEST, WireServer

HALF = Progress("fetching", 2048, 4096, 0, 1, 2)


def test_pull_prints_the_path_alone(server: WireServer, cached: Command) -> None:
    server.acquire(Progress("resolving"), HALF, server.ready())
    answer = cached("pull", "hf://org/name@main")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"{server.snapshot}\n", "")


def test_pull_json_ends_in_one_object_with_the_promised_names(server: WireServer, cached: Command) -> None:
    server.acquire(HALF, server.ready())
    answer = cached("pull", "org/name", "--json")
    assert json.loads(answer.stdout.splitlines()[-1]) == {
        "path": str(server.snapshot),
        "digest": DIGEST,
        "revision": "a" * 40,
        "source": "hf://org/name",
        "size": 4096,
        "hit": False,
        "stale": False,
    }


def test_pull_draws_a_bar_on_a_terminal_only(server: WireServer, cached: Command) -> None:
    server.acquire(HALF, Progress("publishing", 4096, 4096, 0, 2, 2), server.ready())
    code, shown, out = cached.on_terminal("pull", "org/name", stream="stderr")
    assert code == 0 and out == f"{server.snapshot}\n"
    assert "org/name" in shown and "4.0 KiB of 4.0 KiB" in shown and "2/2 files" in shown


def test_a_hit_draws_nothing(server: WireServer, cached: Command) -> None:
    server.acquire(server.ready(hit=True))
    assert cached.on_terminal("pull", "org/name", stream="stderr") == (0, "", f"{server.snapshot}\n")


def test_quiet_draws_nothing(server: WireServer, cached: Command) -> None:
    server.acquire(HALF, server.ready())
    assert cached.on_terminal("pull", "org/name", "--quiet", stream="stderr")[:2] == (0, "")


def test_a_failure_ends_the_bar_and_says_why(server: WireServer, cached: Command) -> None:
    server.acquire(HALF, NotCached("hf://org/name is not cached on this node."))
    code, shown, out = cached.on_terminal("pull", "org/name", stream="stderr")
    assert code == 3 and out == ""
    assert shown.rstrip().endswith("cached: hf://org/name is not cached on this node.")


def test_a_stale_model_is_served_with_a_warning(server: WireServer, cached: Command) -> None:
    server.acquire(server.ready(hit=True, stale=True))
    answer = cached("pull", "org/name", "--json")
    assert answer.returncode == 0 and json.loads(answer.stdout)["stale"] is True
    assert "did not answer" in answer.stderr and answer.stderr.count("\n") == 1


def test_options_reach_the_daemon(server: WireServer, cached: Command) -> None:
    server.acquire(server.ready())
    options = (
        "--revision v1 --include *.json --include *.safetensors --exclude x* --keep 2h --max-age 5m --offline --lean"
    )
    assert cached("pull", "hf://org/name", *options.split()).returncode == 0
    what, body = server.requests[0]
    assert what == "POST /v1/acquire"
    body.pop("credentials", None)
    assert body == {
        "uri": "hf://org/name",
        "revision": "v1",
        "include": ["*.json", "*.safetensors"],
        "exclude": ["x*"],
        "keep": 7200,
        "max_age": 300,
        "offline": True,
        "lean": True,
        "pin": True,
    }


def test_a_plain_pull_asks_for_no_admin_right(server: WireServer, cached: Command) -> None:
    server.acquire(server.ready())
    assert cached("pull", "org/name").returncode == 0
    body = server.requests[0][1]
    assert not body.get("pin") and body.get("keep") is None


def test_path_asks_without_the_network(server: WireServer, cached: Command) -> None:
    server.acquire(server.ready(hit=True))
    answer = cached("path", "org/name")
    assert (answer.returncode, answer.stdout) == (0, f"{server.snapshot}\n")
    assert server.requests[0][1]["offline"] is True


def test_path_of_what_is_not_cached_exits_3(server: WireServer, cached: Command) -> None:
    server.acquire(NotCached("hf://org/name is not cached on this node; `cached pull hf://org/name` fetches it."))
    answer = cached("path", "org/name")
    assert answer.returncode == 3 and answer.stdout == "" and "not cached" in answer.stderr
