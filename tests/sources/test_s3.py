"""What only S3 has: buckets, keys, ETags and versions."""

from __future__ import annotations

import http.client
import itertools
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest, ModelNotFound, SourceChanged, SourceDenied, SourceUnavailable
from cached.model import Listing
from cached.model_ref import ModelRef
from cached.sources.s3 import listing as s3_listing
from cached.sources.s3.source import S3Source
from cached.sources.source import FastReader
from tests.servers import CountingProxy, HubStub, Moto, RcloneS3
from tests.servers.moto import S3Server

OLD, NEW = os.urandom(200_000), os.urandom(200_000)
_buckets = itertools.count()


def source_at(endpoint: str, **settings: object) -> S3Source:
    return S3Source(Config(s3_endpoint=endpoint, **settings))  # type: ignore[arg-type]


def resolve(source: S3Source, uri: str, credentials: Credentials) -> Listing:
    return source.resolve(ModelRef.parse(uri), credentials, 10)


@pytest.fixture
def bucket() -> str:
    return f"bucket{next(_buckets)}"


@pytest.fixture(scope="module")
def at_moto(moto: Moto) -> S3Source:
    return source_at(moto.endpoint)


@pytest.fixture(scope="module")
def open_server(no_accounts: None) -> Iterator[RcloneS3]:
    with RcloneS3(auth=False) as server:
        yield server


def keys(server: S3Server) -> Credentials:
    return Credentials(server.credentials)


def put_at_the_start_of_a_second(server: RcloneS3, bucket: str, key: str, data: bytes) -> None:
    while time.time() % 1 > 0.3:
        time.sleep(0.01)  # Polling the clock.
    server.put(bucket, key, data)


def test_versioned_bucket_goes_on_giving_the_old_bytes(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.bucket(bucket, versioned=True)
    moto.put(bucket, "m/w.bin", OLD)
    listing = resolve(at_moto, f"s3://{bucket}/m", keys(moto))
    reader = at_moto.open(listing, listing.entries[0], keys(moto))
    first = reader.read(0, 100_000)
    moto.put(bucket, "m/w.bin", NEW)
    assert first + reader.read(100_000, 100_000) == OLD
    reader.recheck()


def test_unversioned_overwrite_is_refused_on_the_very_next_range(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.put(bucket, "m/w.bin", OLD)
    listing = resolve(at_moto, f"s3://{bucket}/m", keys(moto))
    reader = at_moto.open(listing, listing.entries[0], keys(moto))
    reader.read(0, 100_000)
    moto.put(bucket, "m/w.bin", NEW)
    with pytest.raises(SourceChanged):
        reader.read(100_000, 100_000)


def test_server_that_ignores_if_match_is_checked_again_at_the_end(rclone: RcloneS3, bucket: str) -> None:
    rclone.put(bucket, "m/w.bin", OLD)
    source = source_at(rclone.endpoint)
    listing = resolve(source, f"s3://{bucket}/m", keys(rclone))
    reader = source.open(listing, listing.entries[0], keys(rclone))
    assert reader.read(0, 200_000) == OLD
    reader.recheck()
    rclone.put(bucket, "m/w.bin", NEW)
    with pytest.raises(SourceChanged):
        reader.recheck()


@pytest.mark.parametrize("fast", [True, False], ids=["stream", "read"])
@pytest.mark.parametrize("single", [True, False], ids=["an object", "a prefix"])
def test_without_etags_a_file_overwritten_in_the_second_it_was_written_in_is_another_one(
    untagged: RcloneS3, bucket: str, fast: bool, single: bool
) -> None:
    """Answers date their bytes to the second, so a listing has to wait for that second to be over."""
    source = source_at(untagged.endpoint)
    uri = f"s3://{bucket}/m/w.bin" if single else f"s3://{bucket}/m"
    put_at_the_start_of_a_second(untagged, bucket, "m/w.bin", OLD)
    listing = resolve(source, uri, keys(untagged))
    untagged.put(bucket, "m/w.bin", NEW)
    reader = source.open(listing, listing.entries[0], keys(untagged))
    if fast:
        assert not reader.stream(0, len(NEW), lambda part: None)
    with pytest.raises(SourceChanged, match="another"):
        reader.read(0, len(NEW))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds for which listings have waited; they do wait."""
    found: list[float] = []

    def sleep(seconds: float) -> None:
        found.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(s3_listing, "time", SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic))
    return found


@pytest.mark.parametrize("date", [1_700_000_000.25, 7_000_000_000.25], ids=["long ago", "in the future"])
def test_without_etags_what_is_not_of_this_second_is_listed_once(
    untagged: RcloneS3, bucket: str, date: float, waits: list[float]
) -> None:
    untagged.put(bucket, "m/w.bin", OLD)
    os.utime(untagged.folder / bucket / "m/w.bin", (date, date))
    assert resolve(source_at(untagged.endpoint), f"s3://{bucket}/m", keys(untagged)).entries
    assert not waits


def test_without_etags_only_files_that_count_are_waited_for(
    untagged: RcloneS3, bucket: str, waits: list[float]
) -> None:
    untagged.put(bucket, "m/w.bin", OLD)
    os.utime(untagged.folder / bucket / "m/w.bin", (1_700_000_000, 1_700_000_000))
    source = source_at(untagged.endpoint)
    put_at_the_start_of_a_second(untagged, bucket, "m/w.bin.log", NEW)
    assert source.resolve(ModelRef.parse(f"s3://{bucket}/m", exclude=["*.log"]), keys(untagged), 10).entries
    assert resolve(source, f"s3://{bucket}/m/w.bin", keys(untagged)).entries
    assert not waits


def test_with_etags_no_listing_waits(rclone: RcloneS3, bucket: str, waits: list[float]) -> None:
    source = source_at(rclone.endpoint)
    rclone.put(bucket, "m/w.bin", OLD)
    resolve(source, f"s3://{bucket}/m", keys(rclone))  # Connects, which takes a while.
    put_at_the_start_of_a_second(rclone, bucket, "m/w.bin", OLD)
    assert resolve(source, f"s3://{bucket}/m", keys(rclone)).entries
    assert not waits


def test_without_etags_what_is_written_while_a_listing_waits_is_waited_for_too(
    untagged: RcloneS3, bucket: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = s3_listing.time.sleep

    def sleep(seconds: float) -> None:
        settled(seconds)
        if len(waits) == 1:
            put_at_the_start_of_a_second(untagged, bucket, "m/w.bin", NEW)

    monkeypatch.setattr(s3_listing.time, "sleep", sleep)
    untagged.put(bucket, "m/w.bin", OLD)
    listing = resolve(source_at(untagged.endpoint), f"s3://{bucket}/m", keys(untagged))
    assert len(waits) == 2
    written = (untagged.folder / bucket / "m/w.bin").stat().st_mtime
    assert f"{datetime.fromtimestamp(written, UTC):%H:%M:%S}" in listing.entries[0].version


def test_without_etags_a_place_that_is_always_written_to_cannot_be_used(
    untagged: RcloneS3, bucket: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        waits.append(seconds)
        untagged.put(bucket, "m/w.bin", NEW)

    monkeypatch.setattr(s3_listing.time, "sleep", sleep)
    untagged.put(bucket, "m/w.bin", OLD)
    with pytest.raises(SourceUnavailable, match="being written to"):
        resolve(source_at(untagged.endpoint), f"s3://{bucket}/m", keys(untagged))
    assert len(waits) == s3_listing.TRIES - 1  # After the last one there is nothing to wait for.


def test_listing_goes_over_all_pages(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.bucket(bucket)
    connection = http.client.HTTPConnection("127.0.0.1", moto.port)  # A thousand signatures would take seconds.
    for number in range(1001):
        connection.request("PUT", f"/{bucket}/m/{number:04}.json", body=b"{}", headers={"Authorization": "AWS a:b"})
        connection.getresponse().read()
    connection.close()
    assert len(resolve(at_moto, f"s3://{bucket}/m", keys(moto)).entries) == 1001


def test_folder_markers_are_not_files_and_empty_files_are(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    for key, data in {"m/": b"", "m/sub/": b"", "m/empty": b"", "m/sub/config.json": b"{}"}.items():
        moto.put(bucket, key, data)
    listing = resolve(at_moto, f"s3://{bucket}/m", keys(moto))
    assert [entry.path for entry in listing.entries] == ["empty", "sub/config.json"]


def test_prefix_with_markers_only_has_no_model_files(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.put(bucket, "m/", b"")
    with pytest.raises(ModelNotFound, match=f"no model files at s3://{bucket}/m"):
        resolve(at_moto, f"s3://{bucket}/m", keys(moto))


def test_whole_bucket_may_be_a_model(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.put(bucket, "config.json", b"{}")
    listing = resolve(at_moto, f"s3://{bucket}", keys(moto))
    assert at_moto.open(listing, listing.entries[0], keys(moto)).read(0, 2) == b"{}"


def test_missing_bucket_looks_like_a_forbidden_one_but_to_the_operator(
    moto: Moto, at_moto: S3Source, rclone: RcloneS3, bucket: str
) -> None:
    with pytest.raises(SourceDenied) as absent:
        resolve(at_moto, f"s3://{bucket}-2/m", keys(moto))
    with pytest.raises(SourceDenied) as forbidden:
        resolve(source_at(rclone.endpoint), f"s3://{bucket}/m", Credentials(lend=False))
    assert absent.value.message.replace(f"{bucket}-2", bucket) == forbidden.value.message
    assert absent.value.said == "NoSuchBucket" != forbidden.value.said


def test_anonymous_reads_an_open_server_and_is_denied_elsewhere(
    open_server: RcloneS3, rclone: RcloneS3, bucket: str
) -> None:
    for server in (open_server, rclone):
        server.put(bucket, "m/config.json", b"{}")
    opened = source_at(open_server.endpoint)
    # Even a caller with keys sends none: that is what "anonymous" asks for.
    for credentials in (Credentials(), keys(rclone)):
        listing = resolve(opened, f"s3://anonymous@{bucket}/m", credentials)
        assert opened.open(listing, listing.entries[0], credentials).read(0, 2) == b"{}"
    with pytest.raises(SourceDenied):
        resolve(source_at(rclone.endpoint), f"s3://anonymous@{bucket}/m", keys(rclone))


def test_without_any_keys_the_advice_names_them(rclone: RcloneS3, bucket: str) -> None:
    with pytest.raises(SourceDenied, match=r"no AWS credentials.*anonymous@"):
        resolve(source_at(rclone.endpoint), f"s3://{bucket}/m", Credentials())


def test_daemon_environment_and_profile_serve_callers_without_keys(
    rclone: RcloneS3, bucket: str, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone.put(bucket, "m/config.json", b"{}")
    with monkeypatch.context() as patch:
        for name, value in rclone.credentials.items():
            patch.setenv(name, value)
        assert resolve(source_at(rclone.endpoint), f"s3://{bucket}/m", Credentials()).entries
    file = os.path.join(tmp_path, "credentials")
    with open(file, "w") as out:
        out.write(f"[lab]\naws_access_key_id={rclone.access_key}\naws_secret_access_key={rclone.secret_key}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", file)
    assert resolve(source_at(rclone.endpoint, s3_profile="lab"), f"s3://{bucket}/m", Credentials()).entries
    with pytest.raises(SourceDenied):
        resolve(source_at(rclone.endpoint, s3_profile="none"), f"s3://{bucket}/m", Credentials())


def test_endpoint_of_the_environment_is_used_and_named(
    moto: Moto, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.put(bucket, "m/config.json", b"{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    listing = resolve(source_at(""), f"s3://{bucket}/m", keys(moto))
    assert listing.place == f"s3://127.0.0.1:{moto.port}/{bucket}/m"


@pytest.mark.parametrize("uri", ["s3://AKIA:SECRET@bucket/m", "s3://user@bucket/m", "s3://b!/m", "s3://ab/m"])
def test_keys_in_a_uri_and_names_of_no_bucket_are_refused(at_moto: S3Source, uri: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(at_moto, uri, Credentials())
    assert "SECRET" not in caught.value.message.replace("AWS_SECRET_ACCESS_KEY", "")


def test_connection_cut_in_the_middle_of_a_range_is_unavailable(moto: Moto, bucket: str) -> None:
    moto.put(bucket, "m/w.bin", OLD)
    with CountingProxy(moto.endpoint) as proxy:
        source = source_at(proxy.endpoint)
        listing = resolve(source, f"s3://{bucket}/m", keys(moto))
        reader = source.open(listing, listing.entries[0], keys(moto))
        proxy.cut_after(50_000)
        with pytest.raises(SourceUnavailable):
            reader.read(0, 200_000)
        proxy.restore()
        assert reader.read(0, 200_000) == OLD


@pytest.mark.parametrize("status", [429, 500, 503])
def test_broken_server_is_unavailable_at_the_first_try(hub: HubStub, moto: Moto, status: int) -> None:
    hub.fail(status, times=10, headers={"Retry-After": "9"})  # Any server that answers so will do.
    with pytest.raises(SourceUnavailable) as caught:
        resolve(source_at(hub.endpoint), "s3://models/m", keys(moto))
    assert len(hub.requests) == 1 and caught.value.retry_after == 9.0


def test_secrets_are_in_no_representation(moto: Moto, at_moto: S3Source, bucket: str) -> None:
    moto.put(bucket, "m/config.json", b"{}")
    listing = resolve(at_moto, f"s3://{bucket}/m", keys(moto))
    reader = at_moto.open(listing, listing.entries[0], keys(moto))
    assert moto.secret_key not in f"{reader!r} {listing!r} {at_moto!r} {keys(moto)!r}"


@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_the_fast_lane_gives_the_same_bytes_and_nothing_of_another_version(
    moto: Moto, open_server: RcloneS3, bucket: str, kind: str
) -> None:
    server: S3Server = moto if kind == "moto" else open_server
    credentials = keys(moto) if kind == "moto" else Credentials()
    uri = f"s3://{bucket}/m" if kind == "moto" else f"s3://anonymous@{bucket}/m"
    server.put(bucket, "m/sp ace+%41/w.bin", OLD)
    source = source_at(server.endpoint)
    listing = resolve(source, uri, credentials)
    reader = source.open(listing, listing.entries[0], credentials)
    assert isinstance(reader, FastReader)
    got = bytearray()
    assert reader.stream(50_000, 100_000, got.extend)
    assert bytes(got) == OLD[50_000:150_000]
    server.put(bucket, "m/sp ace+%41/w.bin", NEW)
    got.clear()
    assert not reader.stream(0, 100_000, got.extend), "`read` says why"
    assert not got
    source.close()


def test_a_proof_is_of_the_object_that_was_listed(rclone: RcloneS3, moto: Moto, bucket: str) -> None:
    wrong = Credentials({"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "wrong"})
    for server in (rclone, moto):
        server.put(bucket, "m/w.bin", OLD)
        source = source_at(server.endpoint)
        listing = resolve(source, f"s3://{bucket}/m", keys(server))
        source.prove(listing, listing.entries[0], keys(server), 10)
        if server is rclone:  # Moto believes everybody.
            with pytest.raises(SourceDenied):
                source.prove(listing, listing.entries[0], wrong, 10)
        server.put(bucket, "m/w.bin", NEW[1:])
        if server is moto:  # The other says no ETag, and its date is of the same second.
            with pytest.raises(SourceChanged):
                source.prove(listing, listing.entries[0], keys(server), 10)
        source.close()
