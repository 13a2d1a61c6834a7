"""The table of what can be reached is the truth: no route, file, socket or lock without a row, no row without tests."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from cached.client.connection_pool import CancellableCall, ConnectionPool
from cached.daemon.http.api import Api
from cached.store.startup import preflight
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.reach import descriptors, listening, locked, tree
from tests.servers import HubStub, Tenants
from tests.servers.process import free_port
from tests.test_readme import rows
from tests.waiting import until

TABLE = {re.findall(r"`([^`]+)`", row[0])[0]: row for row in rows("Architecture", "what can be reached")}
TESTS = Path(__file__).parent
_HOLES = {"<digest>": "[0-9a-f]{64}", "<lock>": "([0-9]+|shared|before)", "…": ".*"}
_HOLE = re.compile("|".join(map(re.escape, _HOLES)))


def pattern(text: str) -> re.Pattern[str]:
    """A row's first cell, with its holes, as what it stands for."""
    parts, at = [], 0
    for hole in _HOLE.finditer(text):
        parts += [re.escape(text[at : hole.start()]), _HOLES[hole[0]]]
        at = hole.end()
    return re.compile("".join([*parts, re.escape(text[at:])]) + r"\Z")


def kind(name: str) -> dict[str, re.Pattern[str]]:
    """The rows of a kind (`file`, `lock`, `socket`, `descriptor`), by what each stands for."""
    return {text: pattern(text.removeprefix(f"{name} ")) for text in TABLE if text.startswith(f"{name} ")}


def without_row(found: Iterable[str], name: str) -> list[str]:
    known = kind(name).values()
    return sorted(each for each in found if not any(row.match(each) for row in known))


class _Anything:
    def __getattr__(self, name: str) -> object:
        return self


def test_every_route_has_a_row_that_says_who_may_use_it_and_no_row_is_of_a_route_that_is_not_there() -> None:
    verbs = Api(_Anything(), _Anything(), _Anything()).verbs  # type: ignore[arg-type]
    routes = {f"{method} {path.replace('{ref:.+}', 'REF')}": rule for method, path, rule, _ in verbs}
    assert {name for name in TABLE if name.startswith(("GET ", "POST "))} == routes.keys()
    for name, rule in routes.items():
        assert ("administrators" in TABLE[name][1]) == (rule == "admin"), name


def test_every_row_says_by_whom_and_at_what_cost_and_names_tests_that_exist() -> None:
    written = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    known = set(re.findall(r"^(?:async )?def (test_\w+)", written, re.MULTILINE))
    for name, (_, who, cost, tests) in TABLE.items():
        named = re.findall(r"`(test_\w+)`", tests)
        assert who and cost and named, name
        if preflight.FORMAT > 1:  # Which closes what the table says is closed.
            assert set(named) <= known, (name, set(named) - known)


@pytest.fixture
def daemon(reachable: DaemonProcess) -> DaemonProcess:
    reachable.config(listen=f"127.0.0.1:{free_port()}", retries=20)
    return reachable


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_every_file_socket_lock_and_descriptor_of_a_daemon_that_did_everything_has_a_row(daemon: DaemonProcess) -> None:
    """Fills, hits and leases of several users, a parked download, damage and its repair, removal and a restart."""
    with HubStub() as hub, Tenants() as s3:
        seen = _Seen(daemon)
        hub.add_commit("org/open", {"config.json": b"{}", "model.safetensors": os.urandom(20 << 20)})
        hub.add_commit("org/gated", {"config.json": b"{}", "model.safetensors": os.urandom(1000)})
        hub.add_commit("org/parked", {"model.safetensors": os.urandom(40 << 20)})
        hub.gate("org/gated", "hf_right")
        keys = s3.add("AKIATEAM", "team")
        s3.put("team", "models", "m/config.json", b"{}")
        daemon.start(hub_endpoint=hub.endpoint, s3_endpoint=s3.endpoint)
        one, two = Person(daemon, 4001, HF_TOKEN="hf_right"), Person(daemon, 4002, **keys)
        with one.holding("hf://org/gated"), two.holding("hf://org/open"):
            two.acquire("s3://models/m")
            seen.look()
            hub.cut_after(24 << 20)
            hub.bytes_served = 0
            body = {"uri": "hf://org/parked"}
            connection = ConnectionPool(str(daemon.socket), 1).send("POST", "/v1/acquire", body, CancellableCall())
            until(lambda: hub.bytes_served >= 24 << 20)
            seen.look()
            connection.close()
            daemon.stop()
            daemon.start()
            seen.look()
        hub.reset()
        with daemon.client() as client:
            shown = client.call("GET", "/v1/snapshots")["snapshots"]
            large = next(each for each in shown if each["source"] == "hf://org/open")
            weights = Path(client.call("GET", f"/v1/snapshots/{large['digest']}")["path"], "model.safetensors")
            weights.chmod(0o644)
            with weights.open("r+b") as file:
                file.write(b"damaged")
            client.call("POST", "/v1/verify", {"deep": True, "repair": False})
            seen.look()
            client.call("POST", "/v1/verify", {"deep": True, "repair": True})
            client.call("POST", "/v1/remove", {"ref": "s3://models/m"})
            seen.look()
        daemon.stop()
        seen.look()
    assert without_row(seen.files, "file") == []
    assert without_row(seen.locks, "lock") == []
    assert without_row(seen.sockets, "socket") == []
    assert without_row(seen.descriptors, "descriptor") == []
    if preflight.FORMAT > 1:
        assert seen.open_to_others == set(), "what the table says is the daemon's alone is it by its mode too"


class _Seen:
    """What was there at any of the looks, in the table's words."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self.files: set[str] = set()
        self.locks: set[str] = set()
        self.sockets: set[str] = set()
        self.descriptors: set[str] = set()
        self.open_to_others: set[str] = set()

    def look(self) -> None:
        found = tree(self._daemon.root)
        self.files |= {name + "/" * stat.S_ISDIR(status.st_mode) for name, status in found.items()}
        self.open_to_others |= {name for name, status in found.items() if self._is_open(name, found, status)}
        self.locks |= locked(self._daemon.root)
        process = self._daemon.process
        if process is None or process.poll() is not None:
            return
        pids = [process.pid, *self._daemon.workers()]
        self.sockets |= {self._socket(name) for name in listening(pids)}
        self.descriptors |= {self._descriptor(name) for name in descriptors(pids)}

    def _is_open(self, name: str, found: dict[str, os.stat_result], status: os.stat_result) -> bool:
        """Whether others could read it by its mode and those of the folders above it, where the table says that nobody
        but the daemon can."""
        row = next(
            (text for text, row in kind("file").items() if row.match(name + "/" * stat.S_ISDIR(status.st_mode))), ""
        )
        if not row or not TABLE[row][1].startswith("the daemon"):
            return False
        above = [found[str(folder)] for folder in Path(name).parents if str(folder) != "."]
        return bool(status.st_mode & 0o077) and all(folder.st_mode & 0o001 for folder in above)

    def _socket(self, name: str) -> str:
        return "/run/cached/cached.sock" if name == str(self._daemon.socket) else "HOST:PORT" if ":" in name else name

    def _descriptor(self, name: str) -> str:
        for prefix, said in ((str(self._daemon.root), "ROOT"), (str(self._daemon.log), "LOG")):
            if name.startswith(prefix):
                return said + name[len(prefix) :].removesuffix(" (deleted)")
        return re.sub(r":\[\d+\]$", "", name)
