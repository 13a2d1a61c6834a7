"""Who may enter a snapshot's directory: what the ACLs on the disk say, and how they follow index and leases."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached.access import Access
from cached.errors import NoSpace, StoreDegraded, TooManyUsers
from cached.model import Digest
from cached.store.disk import delete_tree
from cached.store.snapshots.acl import ACL, allow, allowed
from cached.store.snapshots.leases import SHARED
from cached.store.store import Store

from .harm import MODEL, OpenStore, garble_manifest
from .stored import add, key, lock_file

PROBE = 'place:["place","config.json","v1",2]'
OWN, CALLER = Access("own", PROBE), Access("caller", PROBE)


def close(store: Store, snapshot: Digest, access: Access = CALLER) -> None:
    store.resolved({key("m"): ("s3://bucket/m", "revision")}, snapshot, access)


def closed_to(store: Store, *uids: int) -> Digest:
    """A snapshot that these users, and they alone, may enter."""
    snapshot = add(store, "m", MODEL).digest
    close(store, snapshot)
    for uid in uids:
        store.entrants.enter(snapshot, uid, 4e9)
    return snapshot


def mode_of(store: Store, snapshot: Digest) -> int:
    return stat.S_IMODE(store.snapshots.path(snapshot).stat().st_mode)


def inside(store: Store, snapshot: Digest) -> set[int]:
    return allowed(store.snapshots.path(snapshot))


@contextlib.contextmanager
def leased(store: Store, snapshot: Digest, file: str = "", by_the_dead: bool = False) -> Iterator[None]:
    """By this process, with its own lock file or the one of that name. `by_the_dead`: taken by one that has ended, and
    handed on."""
    lock = Path(lock_file(store, snapshot))
    if file:
        lock = lock.with_name(file)
        lock.touch(0o444)
    lease = os.open(lock, os.O_RDONLY)
    try:
        if not by_the_dead:
            fcntl.flock(lease, fcntl.LOCK_SH)
        elif pid := os.fork():
            os.waitpid(pid, 0)
        else:
            fcntl.flock(lease, fcntl.LOCK_SH)
            os._exit(0)
        yield
    finally:
        os.close(lease)


def test_an_acl_names_its_users_and_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o644)
    for uids in ([], [7], [9, 7, 4_000_000_000]):
        allow(file, 4, sorted(uids))
        assert allowed(file) == set(uids)
        assert stat.S_IMODE(file.stat().st_mode) == 0o440  # The group's bits are the mask; nobody else has a right.
    allow(file, 4, None)
    assert allowed(file) == set() and stat.S_IMODE(file.stat().st_mode) == 0o444
    assert ACL not in os.listxattr(file)


def test_an_open_snapshot_is_everybodys_and_a_closed_one_its_entrants(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    assert mode_of(store, snapshot) == 0o555
    close(store, snapshot)
    assert mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == set()
    store.entrants.enter(snapshot, 7, 4e9)
    assert inside(store, snapshot) == {7}
    store.resolved({key("m"): ("s3://bucket/m", "revision")}, snapshot, Access("open"))
    assert mode_of(store, snapshot) == 0o555 and inside(store, snapshot) == set()


def test_a_snapshot_is_as_open_as_the_most_open_of_its_names(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    store.resolved({key("other"): ("s3://bucket/other", "v")}, snapshot, CALLER)
    assert mode_of(store, snapshot) == 0o555
    close(store, snapshot)
    assert mode_of(store, snapshot) == 0o550


def test_what_the_daemons_own_credentials_opened_stays_so_until_they_do_no_more(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    close(store, snapshot, OWN)
    store.resolved({key("m"): ("s3://bucket/m", "revision")}, snapshot, CALLER, "a caller")
    assert store.index.access(snapshot) == OWN and mode_of(store, snapshot) == 0o555
    store.refused(snapshot, OWN)
    assert store.index.access(snapshot) == CALLER and mode_of(store, snapshot) == 0o550
    assert store.index.find(key("m")).access == CALLER  # type: ignore[union-attr]


def test_a_user_is_known_to_be_let_in_only_once_the_disk_lets_it_in(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    snapshot = closed_to(store, 8)
    seen = []
    set_ = os.setxattr

    def looked_at(path: Path, *rest: object) -> None:
        seen.append((store.entrants.until(snapshot, 7), path))
        set_(path, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "setxattr", looked_at)
    store.entrants.enter(snapshot, 7, 4e9)
    assert seen == [(0.0, store.snapshots.path(snapshot))]
    assert store.entrants.until(snapshot, 7) == 4e9 and inside(store, snapshot) == {7, 8}


def test_a_user_whom_the_disk_does_not_let_in_is_not_known_to_be(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    snapshot = closed_to(store, 8)
    set_ = os.setxattr

    def full(path: Path, *rest: object) -> None:
        if path == store.snapshots.path(snapshot):
            raise OSError(errno.ENOSPC, "No space left on device")
        set_(path, *rest)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", full)
        with pytest.raises(NoSpace):
            store.entrants.enter(snapshot, 7, 4e9)
        assert store.entrants.until(snapshot, 7) == 0.0 and inside(store, snapshot) == {8}
    store.entrants.enter(snapshot, 7, 4e9)
    assert store.entrants.until(snapshot, 7) == 4e9 and inside(store, snapshot) == {7, 8}


def test_a_snapshot_that_goes_while_a_user_is_let_in_is_no_failure_of_the_disk(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store)
    delete_tree(store.snapshots.path(snapshot))
    store.snapshots.manifest(snapshot).unlink()
    store.entrants.enter(snapshot, 7, 4e9)
    assert store.entrants.sweep(5e9) == 1


def test_a_user_whom_the_disk_does_not_shut_out_is_shut_out_by_a_later_sweep(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    failing, other = closed_but_open_on_disk(store, 2)
    for snapshot in (failing, other):
        for uid in (7, 8):
            store.entrants.enter(snapshot, uid, 100.0 * uid)
    set_ = os.setxattr

    def fail(path: Path, *rest: object) -> None:
        if path == store.snapshots.path(failing):
            raise OSError(errno.EIO, "Input/output error")
        set_(path, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "setxattr", fail)
    with pytest.raises(StoreDegraded):
        store.entrants.sweep(750.0)
    assert inside(store, other) == {8}
    monkeypatch.setattr(os, "setxattr", set_)
    assert store.entrants.sweep(750.0) == 1 and inside(store, failing) == {8}


def test_who_was_being_let_in_at_a_crash_is_inside_until_the_sweep(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store)
    allow(store.snapshots.path(snapshot), 5, [7])
    store = open_store()
    assert inside(store, snapshot) == {7} and store.entrants.until(snapshot, 7) == 0.0
    assert store.entrants.sweep(200.0) == 1 and inside(store, snapshot) == set()


@pytest.mark.parametrize("open_before", [False, True], ids=["closed", "open"])
def test_a_manifest_that_is_replaced_is_never_out_of_reach_for_who_may_enter(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, open_before: bool
) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    if not open_before:
        close(store, snapshot)
        store.entrants.enter(snapshot, 7, 4e9)
    seen = []
    rename = os.rename

    def looked_at(source: Path, target: Path) -> None:
        rename(source, target)
        assert target == store.snapshots.manifest(snapshot)
        seen.append((mode_of(store, snapshot), inside(store, snapshot)))

    monkeypatch.setattr(os, "rename", looked_at)
    close(store, snapshot, OWN)
    assert seen == [(0o555, set()) if open_before else (0o550, {7})]


def test_a_snapshot_closes_also_when_its_manifest_cannot_be_written(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(NoSpace):
        close(store, snapshot)
    assert mode_of(store, snapshot) == 0o550


def test_a_snapshot_closes_also_when_its_manifest_cannot_be_read(open_store: OpenStore) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    garble_manifest(store, manifest)
    close(store, manifest.digest)
    assert mode_of(store, manifest.digest) == 0o550


def test_who_leases_an_open_snapshot_stays_inside_when_it_closes(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    with leased(store, snapshot):
        close(store, snapshot)
        assert mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == {os.getuid()}
        assert store.entrants.sweep(4e9) == 0 and inside(store, snapshot) == {os.getuid()}
    assert store.entrants.sweep(4e9) == 1 and inside(store, snapshot) == set()


def test_who_was_told_the_path_of_an_open_snapshot_can_use_it_for_its_time_when_it_closes(
    open_store: OpenStore,
) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    for uid, until in ((7, 300.0), (8, 100.0)):
        store.entrants.told(snapshot, uid, until)
    store.entrants.sweep(200.0)
    close(store, snapshot)
    assert inside(store, snapshot) == {7}
    assert store.entrants.sweep(200.0) == 0 and store.entrants.sweep(400.0) == 1
    assert inside(store, snapshot) == set()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_snapshot_closes_when_it_can_be_told_who_leases_it(open_store: OpenStore, restart: bool) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    with leased(store, snapshot, SHARED, by_the_dead=True):
        close(store, snapshot)
        if restart:
            store = open_store()
        store.entrants.sweep(200.0)
        assert mode_of(store, snapshot) == 0o555
        store.entrants.enter(snapshot, 7, 4e9)
        assert mode_of(store, snapshot) == 0o555
    store.entrants.sweep(200.0)
    assert mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == {7}


def test_a_lock_file_of_ones_own_says_who_leases_though_the_process_that_took_it_has_ended(
    open_store: OpenStore,
) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest
    store.entrants.enter(snapshot, 7, 100.0)
    with leased(store, snapshot, by_the_dead=True):
        close(store, snapshot)
        assert store.entrants.sweep(200.0) == 1
        assert mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == {os.getuid()}


def test_the_sweep_shuts_out_whose_time_is_over_and_who_leases_nothing(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store)
    for uid, until in ((7, 100.0), (8, 300.0), (os.getuid(), 100.0)):
        store.entrants.enter(snapshot, uid, until)
    with leased(store, snapshot):
        assert store.entrants.sweep(200.0) == 1
        assert inside(store, snapshot) == {8, os.getuid()}
    assert store.entrants.sweep(200.0) == 1
    assert inside(store, snapshot) == {8}


def test_nobody_is_shut_out_while_it_cannot_be_told_of_one_lease_whose_it_is(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store)
    store.entrants.enter(snapshot, 7, 100.0)
    with leased(store, snapshot):
        with leased(store, snapshot, SHARED, by_the_dead=True):
            assert store.entrants.sweep(200.0) == 0 and inside(store, snapshot) == {7}
        assert store.entrants.sweep(200.0) == 1


def test_who_is_let_in_again_is_not_shut_out_by_an_earlier_time(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store)
    store.entrants.enter(snapshot, 7, 300.0)
    store.entrants.enter(snapshot, 7, 100.0)
    assert store.entrants.sweep(200.0) == 0 and inside(store, snapshot) == {7}
    store.entrants.expire(snapshot, 7, 250.0)
    assert store.entrants.sweep(200.0) == 0
    store.entrants.expire(snapshot, 7, 100.0)
    store.entrants.expire(snapshot, 7, 250.0)
    assert store.entrants.sweep(200.0) == 1 and inside(store, snapshot) == set()


@pytest.mark.parametrize("lost", [False, True], ids=["index kept", "index lost"])
def test_a_start_makes_directories_right_and_keeps_whom_the_disk_lets_in(open_store: OpenStore, lost: bool) -> None:
    store = open_store()
    snapshot, other = add(store, "m", MODEL).digest, add(store, "other", {"config.json": b"other"}).digest
    close(store, snapshot)
    store.entrants.enter(snapshot, 7, 4e9)
    store.close()
    os.chmod(store.snapshots.path(snapshot), 0o777)
    os.chmod(store.snapshots.path(other), 0o700)
    if lost:
        store.layout.index.unlink()
    store = open_store()
    assert mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == {7}
    assert mode_of(store, other) == 0o555
    assert store.index.access(snapshot) == CALLER
    assert open_store().entrants.settle() == 0


def closed_but_open_on_disk(store: Store, count: int) -> list[Digest]:
    """As a daemon that let everybody in has left them."""
    snapshots = [add(store, f"m{i}", {"config.json": f"{i}".encode()}).digest for i in range(count)]
    for i, snapshot in enumerate(snapshots):
        store.resolved({key(f"m{i}"): (f"s3://bucket/m{i}", "revision")}, snapshot, CALLER)
        allow(store.snapshots.path(snapshot), 5, None)
        assert mode_of(store, snapshot) == 0o555
    return sorted(snapshots, key=str)


def test_a_start_shuts_every_snapshot_whatever_became_of_another(open_store: OpenStore) -> None:
    store = open_store()
    damaged, *others = closed_but_open_on_disk(store, 3)
    delete_tree(store.snapshots.path(damaged))
    read = store.snapshots.read(damaged)
    assert read is not None
    for blob in read[0].blobs:
        store.blobs.path(blob).unlink()
    store = open_store()
    assert store.index.query("SELECT state FROM snapshot WHERE digest = ?", (damaged.hex,))[0]["state"] == "damaged"
    assert [mode_of(store, snapshot) for snapshot in others] == [0o550] * 2
    assert store.entrants.settle() == 0


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_start_shuts_every_snapshot_for_which_the_disk_takes_no_acl(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    store = open_store()
    snapshots = closed_but_open_on_disk(store, 2)

    def fail(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "setxattr", fail)
    store = open_store()
    assert [mode_of(store, snapshot) for snapshot in snapshots] == [0o500] * 2
    told = [record for record in caplog.records if record.message == "access.unsettled"]
    assert [record.__dict__["snapshot"] for record in told] == [snapshot.hex for snapshot in snapshots]


def test_mending_a_closed_snapshot_never_opens_it(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    manifest = add(store, "m", MODEL)
    snapshot = manifest.digest
    close(store, snapshot)
    store.entrants.enter(snapshot, 7, 4e9)
    seen = []
    link = os.link

    def looked_at(source: str, target: str) -> None:
        seen.append(mode_of(store, snapshot) & 0o007)
        link(source, target)

    path = store.snapshots.path(snapshot)
    path.chmod(0o750)
    (path / "config.json").unlink()
    monkeypatch.setattr(os, "link", looked_at)
    store.snapshots.mend(manifest)
    assert seen == [0] and mode_of(store, snapshot) == 0o550 and inside(store, snapshot) == {7}


def test_who_was_inside_a_directory_that_is_made_anew_is_inside_again(open_store: OpenStore) -> None:
    store = open_store()
    snapshot = closed_to(store, 7)
    delete_tree(store.snapshots.path(snapshot))
    store.index.mark_damaged(snapshot)
    assert store.relink(snapshot)
    assert inside(store, snapshot) == {7}


def test_without_acls_a_closed_model_is_shut_and_the_sentence_says_what_to_do(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    snapshot = add(store, "m", MODEL).digest

    def unsupported(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    with pytest.raises(StoreDegraded, match="access = 'node'") as caught:
        close(store, snapshot)
    assert not caught.value.lasting
    assert mode_of(store, snapshot) == 0o500
    assert open_store().index.access(snapshot) == CALLER


def test_proofs_are_of_these_credentials_in_this_index_alone(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    who = store.proofs.who({"HF_TOKEN": "secret"})
    assert who == store.proofs.who({"HF_TOKEN": "secret"}) != store.proofs.who({"HF_TOKEN": "other"})
    assert store.proofs.who({}) == "own"
    store.proofs.record("probe", who)
    assert store.proofs.at("probe", who) and store.proofs.at("probe", "own") is None
    store.close()
    with sqlite3.connect(store.layout.index) as db:
        assert not any("secret" in line for line in db.iterdump())
    store = open_store()
    assert store.proofs.at("probe", store.proofs.who({"HF_TOKEN": "secret"}))
    store.proofs.forget_older(4e9)
    assert store.proofs.at("probe", who) is None
    store.close()
    store.layout.index.unlink()
    assert open_store().proofs.who({"HF_TOKEN": "secret"}) != who


FULL = 100  # Users that fit; ext4 takes 503, tmpfs 8,000.


def limit_acls(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As a file system whose ACLs have an end: ext4 says ENOSPC (fs/ext4/xattr.c), XFS E2BIG (fs/xfs/xfs_acl.c)."""
    set_ = os.setxattr

    def limited(path: Path, name: str, value: bytes, *rest: int) -> None:
        if (len(value) - 4) // 8 - 4 > FULL:
            raise OSError(number, os.strerror(number))
        set_(path, name, value, *rest)

    monkeypatch.setattr(os, "setxattr", limited)


def full(store: Store, until: float) -> Digest:
    snapshot = closed_to(store)
    with store.index.transaction() as db:
        db.executemany("INSERT INTO entrant VALUES (?, ?, ?)", [(snapshot.hex, 1000 + i, until) for i in range(FULL)])
    store.entrants.apply(snapshot)
    assert len(inside(store, snapshot)) == FULL
    return snapshot


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.E2BIG], ids=errno.errorcode.get)
@pytest.mark.parametrize("until", [1.0, 4e9], ids=["expired", "not expired"])
def test_where_an_acl_is_full_the_next_user_takes_the_place_of_one_who_uses_nothing(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, number: int, until: float
) -> None:
    limit_acls(monkeypatch, number)
    store = open_store()
    snapshot = full(store, until)
    store.entrants.told(snapshot, 1000, 4e9)
    file = Path(lock_file(store, snapshot, 1001))
    with file.open() as lease:
        fcntl.flock(lease, fcntl.LOCK_SH)
        idle = Path(lock_file(store, snapshot, 1002))
        store.entrants.enter(snapshot, 7, 4e9)
        assert {7, 1000, 1001} <= inside(store, snapshot)
    assert store.entrants.until(snapshot, 7) == 4e9 and store.entrants.until(snapshot, 1002) == 0.0
    assert file.exists() and not idle.exists()
    store.entrants.enter(snapshot, 1002, 4e9)
    assert 1002 in inside(store, snapshot)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.E2BIG], ids=errno.errorcode.get)
def test_where_all_of_a_full_acl_are_using_the_model_another_is_told_so_and_the_root_is_well(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    limit_acls(monkeypatch, number)
    store = open_store()
    snapshot = full(store, 4e9)
    for i in range(FULL):
        store.entrants.told(snapshot, 1000 + i, 4e9)
    before = inside(store, snapshot)
    with pytest.raises(TooManyUsers, match=f"^{FULL} users may enter .*; try again when some have ended.$") as caught:
        store.entrants.enter(snapshot, 7, 4e9)
    assert caught.value.retryable and not getattr(caught.value, "lasting", False)
    assert inside(store, snapshot) == before and store.entrants.until(snapshot, 7) == 0.0
    store.entrants.sweep(4.5e9)
    store.entrants.enter(snapshot, 7, 5e9)
    assert inside(store, snapshot) == {7}


def test_those_who_crowd_in_where_all_are_using_the_model_are_refused_by_one_look_a_second(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_acls(monkeypatch, errno.ENOSPC)
    store = open_store()
    snapshot = full(store, 4e9)
    for i in range(FULL):
        store.entrants.told(snapshot, 1000 + i, 4e9)
    looks, now = [], time.monotonic()
    monkeypatch.setattr(store.leases, "users", lambda *_: looks.append(1) or set())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for uid in range(1, 20):
        with pytest.raises(TooManyUsers, match="try again when some have ended"):
            store.entrants.enter(snapshot, uid, 4e9)
    assert len(looks) == 1
    for time_left in (4e9, 0.0):  # Who is inside already, and may have been found there only, takes no place.
        with store.index.transaction() as db:
            db.execute("UPDATE entrant SET until = ? WHERE uid = 1000", (time_left,))
        store.entrants.enter(snapshot, 1000, 5e9)
        assert store.entrants.until(snapshot, 1000) == 5e9
    now += 1.1
    with pytest.raises(TooManyUsers):
        store.entrants.enter(snapshot, 7, 4e9)
    assert len(looks) == 2


def test_as_many_users_as_this_file_system_can_name_and_more_are_let_in_one_after_the_other(
    open_store: OpenStore,
) -> None:
    store = open_store()
    snapshot = closed_to(store)
    with store.index.transaction() as db:
        rows = [(snapshot.hex, 100_000 + i, 4e9) for i in range(9000)]
        db.executemany("INSERT INTO entrant VALUES (?, ?, ?)", rows)
    store.entrants.enter(snapshot, 7, 4e9)
    assert 7 in inside(store, snapshot) and 100 < len(inside(store, snapshot)) < 9000
