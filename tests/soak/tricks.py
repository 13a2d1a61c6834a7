"""What a hostile user tries, as functions of a `Hostile`. Each is short: they are drawn at random, again and again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.soak.plan import BASE, GUESSED, NEW
from tests.soak.wire import abandon, ask, connect, request

if TYPE_CHECKING:
    from tests.soak.hostile import Hostile

MOST_HELD = 60  # Connections of one user that are kept open at a time.
_REST = "HTTP/1.1\nHost: x\nX-Rest: y"


def smuggle(user: Hostile) -> None:
    """A whole request in a credential: its answer would be taken for that of somebody else's proof."""
    target = user.random.choice(("/pub/copy.json", f"/private/{GUESSED}/model.safetensors", "/private?list-type=2"))
    hidden = (
        user.random.choice(("t\n\n", "t\r\n\r\n", "t\r\r", "t\x0b\n", "t\u2028\n\n", "t\x85\n\n"))
        + f"HEAD {target} {_REST}"
    )
    name = user.random.choice(("AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "AWS_REGION"))
    uri = user.random.choice((BASE[1], BASE[0], "s3://pub/", user.new_model()))
    user.take(uri, {**user.keys, name: hidden})


def smuggle_in_a_uri(user: Hostile) -> None:
    hidden = user.random.choice(("\n", "\r\n", "\r", "%0a", "%0d%0a", "\x85"))
    uri = f"s3://private/{GUESSED}{hidden}HEAD /pub/copy.json {_REST}"
    user.take(uri, user.keys)
    user.take("hf://closed/" + GUESSED, {}, revision=f"main{hidden}X: y")


def read_what_is_others(user: Hostile) -> None:
    """By patterns that hold a file which the source gives to everybody, with no credentials, with another's name."""
    for uri in (*BASE[:2], user.new_model()):
        user.take(uri, {}, include=user.random.choice(([], ["README.md", "*.safetensors"], ["*"])))
        user.take(uri, user.keys, offline=True)


def claim_its_bytes(user: Hostile) -> None:
    """A listing that names the sha256 of a closed model's file, which its publisher does not have."""
    user.take(user.random.choice(("hf://evil/claim", "hf://evil/claim-open")), user.environment)


def poison(user: Hostile) -> None:
    """The working user's names, with keys to which they mean something else: before it asks for them, and after."""
    user.take(user.random.choice((user.new_model(), BASE[1], BASE[2])), user.keys)


def look(user: Hostile) -> None:
    """All that the daemon says, and all that lies on the disk under names that can be guessed."""
    digests = user.digests()
    verbs = ["/v1/snapshots", "/v1/status", "/v1/leases", "/metrics", "/healthz"]
    verbs += [f"/v1/snapshots/{name}" for name in (*BASE[:2], "%25" * 1000, "sha256:", "*", *digests[:2])]
    for verb in verbs:
        user.search(ask(user.plan.socket, verb), verb)
    for verb in ("pin", "unpin", "remove", "gc", "verify"):
        answer = ask(user.plan.socket, f"/v1/{verb}", {"ref": BASE[0], "free": 1 << 40})
        if b'"forbidden"' not in answer:
            user.leaks.append(f"{verb} was not refused: {answer[-200:]!r}")
    for path in user.openable():
        with contextlib.suppress(OSError), open(path, "rb") as file:
            user.search(file.read(1 << 20), path)


def lock(user: Hostile) -> None:
    """Everything that can be opened, in every way, for a moment. All of them take the same kind of lock at a time: of
    many, some shared one would always be held, and no exclusive one be had."""
    kind = (fcntl.LOCK_EX, fcntl.LOCK_EX, fcntl.LOCK_SH)[int(time.time() / 4) % 3]
    with contextlib.ExitStack() as stack:
        for path in user.openable():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, kind | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):
                    fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        time.sleep(user.random.uniform(0.1, 2.0))


def patterns(user: Hostile) -> None:
    shapes: tuple[Callable[[int], str], ...] = (
        lambda number: "[" * 40_000,
        lambda number: "*a" * 500 + "b",
        lambda number: f"s{number}-" + "?" * 900 + "*" * 100,
        lambda number: "[!" + "a-z" * 300 + "]*" + str(number),
        lambda number: f"*-{number:05}-of-09999.safetensors",
    )
    shape = user.random.choice(shapes)
    count = user.random.choice((1, 16, 998))
    body = {"uri": user.random.choice(("hf://evil/shards", "hf://org/open", "hf://evil/many")), "require": "llm"}
    body[user.random.choice(("include", "exclude"))] = [shape(number) for number in range(count)]  # type: ignore[assignment]
    for verb in ("/v1/acquire", "/v1/plan"):
        ask(user.plan.socket, verb, body, seconds=2)


def rows(user: Hostile) -> None:
    """Names that differ, each for the index to remember, and fields for the log."""
    for _ in range(20):
        made_up = f"{user.random.getrandbits(64):x}"
        body = {"uri": "hf://org/open", "include": ["config.json", made_up * 50], made_up: made_up}
        ask(user.plan.socket, "/v1/acquire", body, seconds=5)


def listings(user: Hostile) -> None:
    for _ in range(user.random.randint(1, 20)):
        uri = f"s3://anonymous@endless/{user.random.getrandbits(64):x}"
        with contextlib.suppress(OSError):
            abandon(user.plan.socket, user.random.choice(("/v1/acquire", "/v1/plan")), {"uri": uri}, 0.01)


def fills(user: Hostile) -> None:
    """Models as large as the whole store, given up at once."""
    body: dict[str, Any] = {
        "uri": f"s3://anonymous@huge/{user.random.randint(0, 9)}",
        "abandon": user.random.random() < 0.5,
    }
    abandon(user.plan.socket, "/v1/acquire", body, user.random.uniform(0.05, 0.5))


def half_requests(user: Hostile) -> None:
    """Heads and bodies that never end, connections that say nothing, and some that send descriptors of pipes."""
    whole = request("/v1/acquire", {"uri": "hf://org/open"})
    begun = (b"", b"GET /v1/sta", whole[:40], whole[:-5], b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50, b"\x16\x03\x01")
    while len(user.held) > MOST_HELD:
        user.held.pop(0).close()
    for _ in range(10):
        with contextlib.suppress(OSError):
            connection = connect(user.plan.socket, 1.0)
            user.held.append(connection)
            connection.sendall(user.random.choice(begun))
            if user.random.random() < 0.2:
                ends = os.pipe()
                socket.send_fds(connection, [b"x"], list(ends) * 20)
                os.close(ends[0]), os.close(ends[1])


def broken_bodies(user: Hostile) -> None:
    """Whole requests that are none."""
    nested = b"[" * 60_000
    bodies = (b"{", nested, b"\xff\xfe", b'{"uri":' + b"9" * 5000 + b"}", b'{"uri":"hf://a/b","include":{}}', b"null")
    body = user.random.choice(bodies)
    head = user.random.choice(
        (
            f"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n",
            "POST /v1/acquire HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "POST /v1/plan HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            "POST /v1/acquire HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n",
        )
    )
    with connect(user.plan.socket, 2.0) as connection:
        connection.sendall(head.encode() + body)
        # With no time to linger: the answer meets a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if user.random.random() < 0.5:
            connection.recv(1 << 16)


def places(user: Hostile) -> None:
    """Where the daemon should ask nobody, and files of its own."""
    uris = (
        "file:///etc/shadow",
        f"file://{user.plan.root}",
        f"http://unix{user.plan.socket}",
        "http://127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "s3://key:secret@private/x",
        "hf://../../x/y",
        f"hf://closed/{GUESSED}/../../..",
    )
    user.take(user.random.choice(uris), user.keys)


def pipes(user: Hostile) -> None:
    """A FIFO and a socket where the working user's names would be, should any folder let them be made there."""
    for folder in user.folders():
        name = Path(folder, f"{user.random.getrandbits(32):x}")
        with contextlib.suppress(OSError):
            os.mkfifo(name)
            user.leaks.append(f"a pipe could be made in {folder}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(name))
            user.leaks.append(f"a socket could be made in {folder}")


def tricks() -> Iterator[Callable[[Hostile], None]]:
    yield from (smuggle, smuggle_in_a_uri, read_what_is_others, claim_its_bytes, poison, look, lock, patterns, rows)
    yield from (listings, fills, half_requests, broken_bodies, places, pipes)


def guess_of_new(number: int) -> str:
    return NEW[number % len(NEW)].format(number)
