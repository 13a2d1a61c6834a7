"""A canary in every place of a URI that is accepted: it is in no log, no row, no manifest, and nobody hears of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cached import CachedError
from tests.daemon_process import DaemonProcess
from tests.people import Person
from tests.servers import Files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

CANARY = "CANARY4f1f"
OWNER, STRANGER = 4001, 4002
PATH = "/dir/model.gguf"


@pytest.fixture
def files() -> Iterator[Files]:
    with Files({PATH: b"weights" * 1000}) as server:
        yield server


@pytest.fixture
def daemon(files: Files, reachable: DaemonProcess) -> DaemonProcess:
    settings = {"protocols": ["http", "s3"], "private_networks": ["127.0.0.0/8"]}
    return reachable.start(log_level="debug", max_age=0, **settings)


def told(person: Person) -> str:
    """All that this user hears of what is here."""
    listed = person.call("GET", "/v1/snapshots")
    shown = [person.call("GET", f"/v1/snapshots/{each['digest']}") for each in listed["snapshots"]]
    rest = [person.call("GET", f"/v1/{verb}") for verb in ("status", "leases")]
    return json.dumps([listed, shown, rest])


def test_a_query_is_in_no_place_where_anybody_could_read_it(daemon: DaemonProcess, files: Files) -> None:
    owner, stranger = Person(daemon, OWNER), Person(daemon, STRANGER)
    url = f"{files.endpoint}{PATH}?X-Amz-Signature={CANARY}&x=1"
    said: list[Any] = []
    with owner.holding(f"{url}#{CANARY}") as lease:
        assert f"{PATH}?X-Amz-Signature={CANARY}&x=1" in files.targets
        assert Path(lease.path, "model.gguf").read_bytes() == b"weights" * 1000
        said += [lease.source, told(owner), told(stranger), told(Person(daemon, 0))]
        said += [path.name for path in daemon.root.rglob("*")]
        said += [daemon.client().call("POST", "/v1/plan", {"uri": url})]
    assert owner.acquire(url).hit  # The same URL is found again.
    del files.files[PATH]
    for wrong in (url.replace(PATH, "/nothing"), f"{url}&y=2", f"{files.endpoint}/dir/?{CANARY}"):
        with pytest.raises(CachedError) as caught:
            owner.acquire(wrong)
        said.append(caught.value.message)
    for verb, body in (("remove", {"ref": f"{url}&z"}), ("pin", {"ref": f"{url}&z", "keep": None})):
        with pytest.raises(CachedError) as caught:
            daemon.client().call("POST", f"/v1/{verb}", body)
        said.append(caught.value.message)
    daemon.stop()
    said.append(daemon.log.read_text())
    assert CANARY not in json.dumps(said)
    for path in daemon.root.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("form", ["http://u:{}@127.0.0.1/m.gguf", "s3://K:{}@b/m", "s3://b/m?X-Amz-Signature={}"])
def test_what_is_refused_is_forgotten_as_well(daemon: DaemonProcess, form: str) -> None:
    with pytest.raises(CachedError) as caught:
        daemon.client().acquire(form.format(CANARY))
    daemon.stop()
    assert CANARY not in caught.value.message + daemon.log.read_text()
    assert not [path for path in daemon.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
