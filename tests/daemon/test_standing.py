"""What follows from what is known of a caller's right."""

from __future__ import annotations

import pytest

from cached.access import Access, Credentials
from cached.config import Config
from cached.daemon.access.callers import Caller
from cached.daemon.access.standing import Standing, Way, may_be_stale, way
from cached.daemon.access.whose import Whose
from cached.daemon.space.disk import Disk
from cached.errors import CachedError, SourceDenied, SourceUnavailable, StoreDegraded, WorkerLost
from cached.model import Entry, Listing
from cached.model_ref import ModelRef

TTL, GRACE = 600.0, 86400.0
FRESH, RECENT, OLD, NONE = (Standing(False, age, TTL, GRACE) for age in (1.0, TTL + 1, GRACE + 1, None))
OPEN = Standing(True, None, TTL, GRACE)


@pytest.mark.parametrize(
    "standing, fresh, offline, one_probe, expected",
    [
        (OPEN, True, False, False, Way.HIT),
        (FRESH, True, False, True, Way.HIT),
        (FRESH, False, False, True, Way.CHECK),
        (RECENT, True, False, True, Way.PROVE),
        (RECENT, True, False, False, Way.CHECK),
        (RECENT, False, False, True, Way.CHECK),
        (FRESH, False, True, True, Way.HIT),
        (RECENT, True, True, True, Way.PROVE),
        (RECENT, False, True, True, Way.PROVE),
        (RECENT, False, True, False, Way.CHECK),
        (OLD, True, True, True, Way.WHOLE),
        (OLD, True, False, True, Way.WHOLE),
        (NONE, True, False, True, Way.WHOLE),
        (NONE, False, False, False, Way.WHOLE),
    ],
)
def test_the_way_follows_from_the_right_and_from_the_name(
    standing: Standing, fresh: bool, offline: bool, one_probe: bool, expected: Way
) -> None:
    assert way(standing, fresh, offline, one_probe) is expected


def unavailable(seen: bool) -> SourceUnavailable:
    error = SourceUnavailable("down")
    error.seen = seen
    return error


@pytest.mark.parametrize(
    "standing, error, expected",
    [
        (FRESH, unavailable(False), True),
        (FRESH, WorkerLost("gone"), True),
        (FRESH, StoreDegraded("full"), True),
        (FRESH, SourceDenied("no"), False),
        (RECENT, unavailable(True), True),
        (RECENT, unavailable(False), False),
        (RECENT, WorkerLost("gone"), False),
        (OLD, unavailable(True), False),
        (NONE, unavailable(True), False),
    ],
)
def test_the_grace_is_for_what_was_seen_of_the_source(standing: Standing, error: CachedError, expected: bool) -> None:
    assert may_be_stale(standing, error) is expected


def rows(disk: Disk, uri: str, caller: Caller, **settings: object) -> tuple[str, ...] | None:
    config = Config(root=disk.root, **settings)  # type: ignore[arg-type]
    return Whose(config).rows(disk.store.proofs, ModelRef.parse(uri), caller)


def caller(lend: bool = False, **variables: str) -> Caller:
    return Caller(1000, Credentials(variables, lend))


KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"}


def test_a_caller_goes_by_its_own_names_alone_where_keys_may_choose_what_they_mean(disk: Disk) -> None:
    mine = rows(disk, "s3://b/p", caller(**KEYS))
    assert mine is not None and len(mine) == 1
    assert rows(disk, "s3://b/p", caller(**KEYS, AWS_SESSION_TOKEN="t")) != mine
    assert rows(disk, "s3://b/p", caller(**KEYS, AWS_REGION="cn-north-1")) != mine
    assert rows(disk, "s3://b/p", caller(**KEYS, AWS_REGION="cn-north-1"), s3_region="eu-1") == mine
    assert rows(disk, "s3://b/p", caller(lend=True)) == ("own",)
    assert rows(disk, "s3://b/p", caller()) == ("", "nobody")
    assert rows(disk, "s3://anonymous@b/p", caller(lend=True, **KEYS)) == ("", "nobody")
    other_region = rows(disk, "s3://b/p", caller(AWS_REGION="cn-north-1"))
    assert other_region is not None and not set(other_region) & {"", "nobody"}
    assert rows(disk, "s3://b/p", caller(**KEYS), access="node") == mine
    assert rows(disk, "az://c/p", caller(lend=True, AZURE_STORAGE_ACCOUNT_NAME="a")) != ("own",)


def test_a_caller_goes_by_what_is_open_to_all_where_a_name_means_one_thing(disk: Disk) -> None:
    assert rows(disk, "hf://org/m", caller()) == ("", "nobody")
    assert rows(disk, "hf://org/m", caller(lend=True)) == ("", "own")
    mine = rows(disk, "hf://org/m", caller(HF_TOKEN="t"))
    assert mine is not None and mine[0] == "" and mine[1] not in ("own", "nobody")
    assert rows(disk, "hf://org/m", caller(**KEYS, AWS_REGION="x")) == ("", "nobody"), "those are another source's"
    assert rows(disk, "hf://org/m", caller(), access="node") is None
    assert rows(disk, "hf://org/m", Caller(None, Credentials())) is None


def test_one_fill_is_shared_by_callers_of_the_same_credentials_alone() -> None:
    whose, ref = Whose(Config()), ModelRef.parse("s3://b/p")
    callers = [
        caller(),
        caller(lend=True),
        caller(AWS_REGION="cn-north-1"),
        caller(lend=True, AWS_REGION="cn-north-1"),
        caller(**KEYS),
        caller(**KEYS, AWS_SESSION_TOKEN="t"),
        caller(**KEYS, AWS_DEFAULT_REGION="cn-north-1"),
        caller(**{**KEYS, "AWS_SECRET_ACCESS_KEY": "another"}),
    ]
    assert len({whose.key(ref, each) for each in callers}) == len(callers)
    azure = ModelRef.parse("az://c/p")
    accounts = [caller(AZURE_STORAGE_ACCOUNT_KEY="k", AZURE_STORAGE_ACCOUNT_NAME=name) for name in ("a", "b")]
    assert len({whose.key(azure, each) for each in accounts}) == 2


def test_a_probe_is_as_short_for_many_files_as_for_one_and_says_which_they_are() -> None:
    ref = ModelRef.parse("s3://b/p")
    many = tuple(Entry(f"{number}", 1, "v") for number in range(2000))
    probes = {
        Access.of(Listing(ref, place, "r", entries), own=False).probe
        for place, entries in (("s3://e/b", many), ("s3://f/b", many), ("s3://e/b", many[1:]), ("s3://e/b", many[:1]))
    }
    assert len(probes) == 4 and {len(probe) for probe in probes} == {len("files:") + 64}
    same = Access.of(Listing(ref, "s3://e/b", "r", many[::-1]), own=False).probe
    assert same in probes, "in whatever order they are listed"


def test_what_a_former_release_took_for_a_proof_opens_nothing() -> None:
    old = 'own ["place","README.md","v1",2]'
    assert Access.parse(old).kind == "caller"
    assert Access.parse(str(Access.parse(old))) == Access.parse(old)
    for text in ('own place:["place","w","v1",2]', "caller files:" + "0" * 64, "open", ""):
        assert str(Access.parse(text)) == text
