"""A remote that breaks the rules now and then: the model arrives right, or one sentence says why it does not."""

from __future__ import annotations

import email.utils
import hashlib
import os
import time
from pathlib import Path

import pytest

from cached import CachedError, ModelNotFound, SourceChanged, SourceDenied, SourceUnavailable, TooLarge
from tests.daemon_process import DaemonProcess
from tests.servers import CountingProxy, Files, RcloneS3
from tests.servers.files import FAULTS

MIB = 1 << 20
SMALL, LARGE = os.urandom(300_000), os.urandom(40 * MIB + 17)
BODIES = {"small": SMALL, "large": LARGE}


def started(daemon: DaemonProcess, **settings: object) -> DaemonProcess:
    return daemon.start(protocols=["http", "hf", "s3"], private_networks=["127.0.0.0/8"], read_timeout="1s", **settings)


def published(daemon: DaemonProcess, uri: str, **options: object) -> dict[str, bytes]:
    """What a caller is given; every blob has the digest that it is named by, and nothing stray is left."""
    with daemon.client(timeout=60) as client, client.acquire(uri, **options) as lease:  # type: ignore[arg-type]
        found = {path.name: path.read_bytes() for path in Path(lease.path).iterdir()}
    blobs = [path for path in (daemon.root / "blobs").rglob("*") if path.is_file() and path.suffix != ".pieces"]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)
    assert not daemon.files("ingest", "trash", "quarantine")
    return found


@pytest.mark.parametrize("size", list(BODIES))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_time_and_nothing_else(daemon: DaemonProcess, fault: str, size: str) -> None:
    with Files({"/w.bin": BODIES[size]}) as files:
        files.faults = [fault] * 2
        started(daemon)
        assert published(daemon, f"{files.endpoint}/w.bin") == {"w.bin": BODIES[size]}
        assert len(files.faults) < 2, "the fault was met"


@pytest.mark.parametrize("fault", ["short", "stall", "reset", "garbage", "cut", "503"])
def test_a_fault_that_stays_ends_in_one_sentence(daemon: DaemonProcess, fault: str) -> None:
    with Files({"/w.bin": SMALL}) as files:
        files.faults = [fault] * 1000
        started(daemon, retries=2)
        with pytest.raises(SourceUnavailable) as caught:
            published(daemon, f"{files.endpoint}/w.bin")
    assert "\n" not in caught.value.message and "w.bin" in caught.value.message
    assert not daemon.files("blobs", "snapshots")


@pytest.mark.parametrize(
    "said", ["0", "1", "-5", "nan", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "date", "99999999999999999999"]
)
@pytest.mark.parametrize("status", ["429", "503"])
def test_whatever_retry_after_says_the_wait_is_bounded(daemon: DaemonProcess, status: str, said: str) -> None:
    with Files({"/w.bin": SMALL}) as files:
        files.retry_after = email.utils.formatdate(time.time() + 1, usegmt=True) if said == "date" else said
        patient = not said.startswith("9")  # The huge one would be a minute: there the caller's own time-out ends it.
        files.faults = [status]
        started(daemon)
        if patient:
            assert published(daemon, f"{files.endpoint}/w.bin") == {"w.bin": SMALL}
        else:
            with pytest.raises(CachedError):
                published(daemon, f"{files.endpoint}/w.bin", timeout=2)


@pytest.mark.parametrize("status, error", [("401", SourceDenied), ("403", SourceDenied)])
def test_access_that_is_taken_away_in_the_middle_is_denied(
    daemon: DaemonProcess, status: str, error: type[CachedError]
) -> None:
    with Files({"/w.bin": LARGE}) as files:
        files.faults = ["right", *[status] * 1000]
        started(daemon)
        with pytest.raises(error):
            published(daemon, f"{files.endpoint}/w.bin")
    assert not daemon.files("blobs", "snapshots")


def test_a_file_that_changes_in_the_middle_is_the_new_one_whole_or_none(daemon: DaemonProcess) -> None:
    fresh = os.urandom(len(LARGE))

    class Changing(Files):
        def seen(self) -> None:
            if len(self.requests) == 3:
                self.files["/w.bin"] = fresh

    with Changing({"/w.bin": LARGE}) as files:
        started(daemon)
        try:
            assert published(daemon, f"{files.endpoint}/w.bin") == {"w.bin": fresh}
        except SourceChanged:
            assert not daemon.files("blobs", "snapshots")


def test_a_redirect_loop_ends(daemon: DaemonProcess) -> None:
    with Files({"/w.bin": SMALL}) as files:
        files.redirects = {"/a.bin": f"{files.endpoint}/b.bin", "/b.bin": f"{files.endpoint}/a.bin"}
        started(daemon)
        with pytest.raises(SourceUnavailable):
            published(daemon, f"{files.endpoint}/a.bin")


def test_an_empty_file_is_a_model_and_an_empty_place_is_none(daemon: DaemonProcess) -> None:
    with Files({"/empty.bin": b""}) as files:
        started(daemon)
        assert published(daemon, f"{files.endpoint}/empty.bin") == {"empty.bin": b""}
        with pytest.raises(ModelNotFound, match="no model files at"):
            published(daemon, f"{files.endpoint}/none.bin")


def test_what_can_never_fit_is_refused_before_the_first_byte(daemon: DaemonProcess, tmp_path: Path) -> None:
    with RcloneS3(etags=False) as s3:
        place = s3.folder / "bucket" / "huge"
        place.mkdir(parents=True)
        with (place / "model.safetensors").open("wb") as file:
            file.truncate(5 << 40)  # Sparse.
        with CountingProxy(s3.endpoint) as proxy:
            daemon.environment = dict(s3.credentials)
            started(daemon, s3_endpoint=proxy.endpoint)
            with pytest.raises(TooLarge):
                published(daemon, "s3://bucket/huge")
            assert proxy.bytes_down < 100_000
