"""What each ending means to the shell, and what the help promises."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cached.cli.main import _COMMANDS, main
from cached.errors import BY_CODE, InUse, SourceDenied

from .answers import snapshot
from .command import Command
from .wire_server import WireServer

NAMES = ["serve", "pull", "path", "ls", "show", "status", "leases", "pin", "unpin", "rm", "gc", "verify", "doctor"]
# One harmless command line for each command that asks the daemon.
ASKING = [
    ("pull", "org/name"),
    ("path", "org/name"),
    ("ls",),
    ("show", "abc"),
    ("status",),
    ("leases",),
    ("pin", "abc"),
    ("unpin", "abc"),
    ("rm", "abc"),
    ("gc",),
    ("verify",),
]


def sentence(stderr: str) -> str:
    """The one line on stderr."""
    assert stderr.startswith("cached: ") and stderr.endswith("\n") and stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr
    return stderr[len("cached: ") : -1]


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command_has_an_example_and_the_common_options(name: str, alone: Command) -> None:
    answer = alone(name, "--help")
    assert answer.returncode == 0 and answer.stderr == ""
    _, _, examples = answer.stdout.partition("Examples:")
    assert f"cached {name}" in examples
    assert "--json" in answer.stdout and "--socket" in answer.stdout


def test_help_lists_every_command_and_every_exit_code(alone: Command) -> None:
    told = alone("--help").stdout
    assert all(re.search(rf"^  {name} ", told, re.M) for name in NAMES)
    codes = {str(error.exit_code) for error in BY_CODE.values()}
    assert codes <= set(re.findall(r"\d+", told.partition("Exit codes:")[2]))


@pytest.mark.parametrize("line", [line for lines in _COMMANDS.values() for line in lines])
def test_every_example_is_a_command_line_that_parses(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHED_SOCKET", str(tmp_path / "nothing.sock"))
    inner = re.search(r"\$\((.*?)\)", line)
    words = shlex.split((inner[1] if inner else line).split("|")[0])
    words = words[words.index("cached", 1) :] if words[0] == "sudo" and "cached" in words[3:] else words
    words = words[words.index("cached") + 1 :] if words[0] != "cached" else words[1:]
    while words[0] == "cached":
        words = words[1:]
    if words[0] == "serve":
        assert main([*words, "--help"]) == 0
    else:
        assert main(words) == (1 if words[0] == "doctor" else 69)
    capsys.readouterr()


def test_version_is_the_installed_one(alone: Command) -> None:
    answer = alone("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "cached 0.1.0\n", "")


def test_no_command_shows_the_help_on_stderr_and_is_a_usage_error(alone: Command) -> None:
    answer = alone()
    assert answer.returncode == 2 and answer.stdout == "" and "pull" in answer.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("frobnicate",), "frobnicate"),
        (("ls", "--frobnicate"), "--frobnicate"),
        (("pull",), "URI"),
        (("gc", "--free", "20XB"), "--free"),
        (("pull", "org/name", "--keep", "soon"), "--keep"),
        (("pull", "org/name", "--max-age", "-1"), "--max-age"),
        (("pin", "a", "b"), "b"),
        (("rm", ""), "REF"),
        (("verify", " "), "REF"),
    ],
)
def test_usage_errors_exit_2_and_name_the_word(words: tuple[str, ...], named: str, alone: Command) -> None:
    answer = alone(*words)
    assert answer.returncode == 2 and answer.stdout == ""
    assert named in sentence(answer.stderr)
    answer = alone(*words, "--json")
    error = json.loads(answer.stdout)["error"]
    assert answer.returncode == 2 and error["code"] == "usage" and error["retryable"] is False
    assert sentence(answer.stderr) == error["message"]


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
def test_without_a_daemon_every_command_exits_69_quickly(words: tuple[str, ...], alone: Command) -> None:
    started = time.monotonic()
    answer = alone(*words, "--json")
    assert time.monotonic() - started < 5
    assert answer.returncode == 69
    error = json.loads(answer.stdout)["error"]
    assert error["code"] == "daemon_unavailable" and error["retryable"] is True
    assert str(alone.socket) in sentence(answer.stderr)


def test_the_socket_option_wins_over_the_variable(server: WireServer, alone: Command) -> None:
    server.answers["GET /v1/leases"] = {"leases": []}
    assert alone("leases").returncode == 69
    assert alone("leases", "--socket", str(server.socket)).returncode == 0


@pytest.mark.parametrize("code", sorted(set(BY_CODE) - {"daemon_unavailable"}))
def test_every_error_of_the_daemon_keeps_its_code_and_sentence(
    code: str, server: WireServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHED_SOCKET", str(server.socket))
    error = BY_CODE[code]("What happened to hf://org/name, and what to do.")
    server.answers["GET /v1/status"] = error
    assert main(["status", "--json"]) == error.exit_code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"code": code, "message": error.message, "retryable": error.retryable}}
    assert sentence(err) == error.message
    assert main(["status"]) == error.exit_code
    assert capsys.readouterr().out == ""


def test_an_error_in_the_middle_of_a_pull_keeps_its_code(server: WireServer, cached: Command) -> None:
    server.acquire(SourceDenied("hf://org/name is gated; accept its terms and set HF_TOKEN."))
    answer = cached("pull", "org/name")
    assert answer.returncode == 4 and answer.stdout == ""
    assert "gated" in sentence(answer.stderr)


def test_refused_removal_says_who_holds_it(server: WireServer, cached: Command) -> None:
    server.answers["POST /v1/remove"] = InUse("hf://org/name is leased by python serve.py (pid 4711); stop it first.")
    answer = cached("rm", "org/name")
    assert answer.returncode == 1 and answer.stdout == ""
    assert "4711" in sentence(answer.stderr)


def test_messages_cannot_steer_the_terminal(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/status"] = SourceDenied("a\x1b[2Jb\nc")
    assert sentence(cached("status").stderr) == "a\N{REPLACEMENT CHARACTER}[2Jb c"


def test_a_fault_of_our_own_is_one_sentence_and_exit_1(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/snapshots"] = {"snapshots": 7}
    answer = cached("ls")
    assert answer.returncode == 1 and answer.stdout == ""
    assert "fault in cached itself: TypeError" in sentence(answer.stderr)


def test_ctrl_c_exits_130_quietly(server: WireServer, cached: Command) -> None:
    server.acquire("wait")
    process = cached.start("pull", "org/name")
    assert server.asked.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_ends_it_quietly(server: WireServer, cached: Command) -> None:
    server.answers["GET /v1/snapshots"] = {"snapshots": [snapshot() for _ in range(5000)]}
    process = cached.start("ls")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_importing_the_command_loads_nothing_heavy() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import cached.cli.main"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"fsspec", "aiohttp", "torch", "ray", "huggingface_hub", "numpy", "requests", "sqlite_utils"}
