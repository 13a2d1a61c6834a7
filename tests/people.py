"""Other users of this node: what a test does as one of them, it does in a forked child with that uid. Needs root."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cached.client.connection  # noqa: F401  Imported before the forks, for whom these files may be out of reach.
from cached import Client, Lease
from cached.client.request import DEFAULTS, acquire_body
from tests.daemon_process import DaemonProcess

T = TypeVar("T")


class Person:
    """`variables` are those of its processes: HF_TOKEN, say."""

    def __init__(self, daemon: DaemonProcess, uid: int, **variables: str) -> None:
        self.daemon, self.uid, self.variables = daemon, uid, variables

    def do(self, call: Callable[[], T]) -> T:
        """Run it as this user; what it returns, or raises."""
        with self._child(lambda: (call(), None)) as answer:
            return answer  # type: ignore[no-any-return]

    def acquire(self, uri: str, **options: Any) -> Lease:
        """An acquire whose lease has ended with its process, once its files have been read."""

        def acquire() -> Lease:
            with self.client() as client:
                lease = client.acquire(uri, **options)
                read(lease.path)
                return _described(lease)

        return self.do(acquire)

    @contextlib.contextmanager
    def holding(self, uri: str) -> Iterator[Lease]:
        """The lease is held during the block, by a process of this user."""

        def acquire() -> tuple[Lease, object]:
            lease = self.client().acquire(uri)
            return _described(lease), lease

        with self._child(acquire) as lease:
            yield lease

    @contextlib.contextmanager
    def keeping(self, call: Callable[[], object]) -> Iterator[None]:
        """What `call` gives (open files, say) is kept during the block, by a process of this user."""
        with self._child(lambda: (None, call())):
            yield

    def can_read(self, path: str) -> bool:
        """Whether the kernel lets this user read every file there."""
        try:
            self.do(lambda: read(path))
        except PermissionError:
            return False
        return True

    def can_open(self, path: str) -> bool:
        """Whether the kernel lets this user open it to read."""
        try:
            self.do(lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
        except PermissionError:
            return False
        return True

    def call(self, method: str, verb: str, body: Any = None) -> Any:
        return self.do(lambda: self.client().call(method, verb, body))

    def plan(self, uri: str, **options: Any) -> dict[str, Any]:
        """What `cached pull --dry-run` would ask, with this user's credentials."""
        body = {**DEFAULTS, **options}
        plan: dict[str, Any] = self.do(lambda: self.client().call("POST", "/v1/plan", acquire_body(uri, **body)))
        return plan

    def client(self) -> Client:
        return Client(self.daemon.socket)

    @contextlib.contextmanager
    def _child(self, call: Callable[[], tuple[Any, object]]) -> Iterator[Any]:
        """What `call` gives first, in a child that keeps what it gives second until the block ends."""
        answer, question = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                self._answer(question, call)
            os._exit(0)
        os.close(question)
        try:
            with open(answer, "rb") as file:
                value = pickle.load(file)
            if isinstance(value, BaseException):
                raise value
            yield value
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _answer(self, question: int, call: Callable[[], tuple[Any, object]]) -> None:
        signal.alarm(120)  # Should the test die meanwhile.
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        os.environ.update(self.variables)
        kept: object = None
        try:
            value, kept = call()
        except BaseException as error:
            error.__traceback__ = error.__cause__ = error.__context__ = None
            value = error
        with open(question, "wb") as file:
            pickle.dump(value, file)
        while kept is not None:
            signal.pause()


def read(path: str) -> None:
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in names:
            Path(folder, name).read_bytes()


def _raise(error: OSError) -> None:
    raise error


def _described(lease: Lease) -> Lease:
    """The lease without what cannot leave its process."""
    copy = object.__new__(Lease)
    copy.__dict__.update({name: value for name, value in vars(lease).items() if not name.startswith("_")})
    copy.__dict__["_fd"] = None
    return copy
