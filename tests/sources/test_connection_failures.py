"""What the libraries make of connections that fail in real ways, in the words that users are told."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import MetadataRetrievalError  # type: ignore[import-untyped]

from cached.access import Credentials
from cached.config import Config
from cached.errors import SourceUnavailable
from cached.model_ref import ModelRef
from cached.sources.registry import Registry
from cached.sources.s3.errors import s3_errors
from cached.sources.transport.failures import connection_failed
from cached.sources.transport.pool import Lanes

Act = Callable[[socket.socket], None]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def say(words: bytes) -> Act:
    return lambda connection: connection.sendall(words)


@contextlib.contextmanager
def answering(act: Act) -> Iterator[int]:
    """The port of a server that reads one request of each connection, acts, and closes."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    act(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def said(uri: str, timeout: float = 5, **settings: object) -> str:
    """What resolving it fails with."""
    keys = Credentials({"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
    ref = ModelRef.parse(uri)
    registry = Registry(Config(protocols=(ref.scheme,), **settings))  # type: ignore[arg-type]
    with contextlib.closing(registry), pytest.raises(SourceUnavailable) as caught:
        registry.source_for(ref).resolve(ref, keys, timeout)
    return caught.value.message


def all_say(words: str, endpoint: str) -> None:
    sentence = "The source of {} cannot be used right now ({}); try again later."
    assert said("s3://bucket/m", s3_endpoint=endpoint) == sentence.format("s3://bucket/m", words)
    assert said("gs://bucket/m", gs_endpoint=endpoint) == sentence.format("gs://bucket/m", words)
    assert said("hf://org/name", hub_endpoint=endpoint) == sentence.format("hf://org/name", words)


@pytest.fixture(params=["fast lanes", "libraries"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each through our own lanes, and through what is asked where those do not serve."""
    if request.param == "libraries":
        monkeypatch.setattr(Lanes, "_behind_proxy", lambda *_: True)


def test_a_port_that_nobody_listens_at() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        all_say("the connection was refused", f"http://127.0.0.1:{bound.getsockname()[1]}")


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN], ids=["unknown", "no name server"])
def test_a_host_that_cannot_be_looked_up(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> None:  # A real one would depend on the network of whoever runs this.
        raise socket.gaierror(code, "the resolver's words")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    all_say("the name of its host cannot be looked up", "http://nowhere.invalid")


def test_a_connection_that_is_reset() -> None:
    with answering(reset) as port:
        all_say("the connection was cut", f"http://127.0.0.1:{port}")


def test_a_server_that_does_not_speak_tls() -> None:
    with answering(say(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        all_say("it does not speak TLS as it should", f"https://127.0.0.1:{port}")


def test_a_server_that_closes_before_it_speaks_tls() -> None:
    with answering(say(b"")) as port:
        all_say("the connection was cut", f"https://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"],
    ids=["another protocol", "nothing", "half an answer"],
)
def test_an_answer_that_is_none(answer: bytes) -> None:
    """The libraries do not always tell the two apart."""
    with answering(say(answer)) as port:
        endpoint = f"http://127.0.0.1:{port}"
        for message in (
            said("s3://bucket/m", s3_endpoint=endpoint),
            said("gs://bucket/m", gs_endpoint=endpoint),
            said("hf://org/name", hub_endpoint=endpoint),
        ):
            assert re.search(r"\((the connection was cut|the answer (is not|broke off, or is not) HTTP)\)", message)


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        message = said("s3://bucket/m", 0.2, s3_endpoint=f"http://127.0.0.1:{server.getsockname()[1]}")
    assert "(it did not answer in time)" in message


def test_keys_that_could_not_be_fetched_are_not_the_sources_fault() -> None:
    refused = MetadataRetrievalError(error_msg="http://169.254.170.2/secret")
    refused.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    said = pytest.raises(SourceUnavailable, match=r"\(the AWS credentials for it could not be fetched\)")
    with said, s3_errors(ModelRef.parse("s3://b/m")):
        raise refused


def test_what_nobody_foresaw_is_told_by_its_class() -> None:
    assert (
        "(the connection failed: KeyError)" in connection_failed(ModelRef.parse("s3://b/m"), KeyError("secret")).message
    )


def test_an_error_that_was_raised_while_another_was_handled_speaks_for_itself() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError:
            raise ConnectionResetError(104, "Connection reset by peer")  # noqa: B904
    except OSError as error:
        assert "(the connection was cut)" in connection_failed(ModelRef.parse("s3://b/m"), error).message
