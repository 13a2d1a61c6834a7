"""What of one listing is asked of its source, on a store in this process and with a source that says what it is told
to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import pytest

from cached.access import Credentials
from cached.config import Config, Duration
from cached.daemon.access.callers import Caller
from cached.daemon.access.whose import Whose
from cached.daemon.acquire.rights import NEW_KEYS, Copy, Registrar, Rights
from cached.daemon.space.disk import Disk
from cached.daemon.space.disks import Disks
from cached.daemon.transfer.workers import Workers
from cached.errors import SourceChanged, SourceDenied
from cached.model import Digest, Entry, Listing
from cached.model_ref import ModelRef
from cached.store.blobs.verify import Checkup
from cached.worker.messages import Check
from tests.store.stored import add

REF = ModelRef.parse("s3://bucket/m")
NAMES = [f"{number:02}" for number in range(30)]
DATA = {name: name.encode() for name in NAMES}


class Asked:
    """In the workers' place: notes what it is asked, and refuses what it is to refuse."""

    def __init__(self) -> None:
        self.proved: list[str] = []
        self.compared: list[str] = []
        self.whole: list[str] = []
        self.silent = 0  # How often it does not say whose keys they are.
        self.refuses: set[str] = set()
        self.damaged = False

    async def prove(self, listing: Listing, entries: Iterable[Entry], caller: Caller, timeout: float) -> None:
        self._note(self.proved, [entry.path for entry in entries])

    async def compare(
        self, listing: Listing, copies: Mapping[Path, Entry], caller: Caller, timeout: float, whole: bool = False
    ) -> None:
        self.whole += [entry.path for entry in copies.values() if whole]
        self._note(self.compared, [entry.path for entry in copies.values()])

    async def principal(self, ref: ModelRef, caller: Caller, timeout: float) -> str | None:
        self.silent -= 1
        return None if self.silent >= 0 else "arn:aws:sts::1:assumed-role/training"

    async def check(self, asked: Check) -> Checkup:
        return Checkup("damaged pieces 0" if self.damaged else None)

    def _note(self, where: list[str], paths: list[str]) -> None:
        where += paths
        if self.refuses & set(paths):
            raise SourceDenied("no")

    def took(self) -> tuple[int, int]:
        """How many were proved and compared since the last call."""
        found = len(self.proved), len(self.compared)
        self.proved.clear()
        self.compared.clear()
        return found


class Case:
    def __init__(self, disk: Disk, **settings: object) -> None:
        self.disk, self.asked = disk, Asked()
        config = Config(root=disk.root, **settings)  # type: ignore[arg-type]
        disks = Disks([disk.store], [])
        self.registrar = Registrar(config, disks, cast(Workers, self.asked), Whose(config))
        manifest = add(disk.store, "m", DATA)
        self.digests = {file.path: file.digest for file in manifest.files}

    def listing(self, version: str = "v1", changed: Iterable[str] = (), claims: bool = False) -> Listing:
        entries = tuple(
            Entry(name, 2, "v2" if name in changed else version, self.digests[name] if claims else None)
            for name in NAMES
        )
        return Listing(REF, "s3://bucket/m", "revision", entries, probe=entries[0] if claims else None)

    def came_from_elsewhere(self) -> None:
        """Nothing that the store has of it is known to have come from this place."""
        with self.disk.store.index.transaction() as db:
            db.execute("DELETE FROM identity")

    def cover(self, listing: Listing, key: str = "AKIA", token: str = "", record: bool = True) -> tuple[int, int]:
        """What the source is asked when this caller is to be given all of it."""
        variables = {"AWS_ACCESS_KEY_ID": key, **({"AWS_SESSION_TOKEN": token} if token else {})}
        rights = Rights(self.registrar, listing, Caller(1000, Credentials(variables, lend=False)))
        copies = [Copy(entry, self.digests[entry.path], self.disk) for entry in listing.entries]

        async def cover() -> None:
            await rights.begin()
            await rights.cover(copies)

        asyncio.run(cover())
        if record:
            rights.record(self.disk)
        return self.asked.took()


@pytest.fixture
def case(disk: Disk) -> Case:
    return Case(disk)


def test_every_file_is_proved_once_and_then_none_while_the_proof_is_fresh(case: Case) -> None:
    assert case.cover(case.listing()) == (30, 0)
    assert case.cover(case.listing()) == (0, 0)
    assert case.cover(case.listing(), key="ANOTHER") == (30, 0)


def test_of_what_was_proved_one_is_drawn_when_the_proof_is_old(disk: Disk) -> None:
    case = Case(disk, proof_ttl=Duration(0))
    case.cover(case.listing())
    assert case.cover(case.listing()) == (1, 0)


def test_a_file_that_changed_is_proved_and_the_others_are_not(case: Case) -> None:
    case.cover(case.listing())
    assert case.cover(case.listing(changed=["07"])) == (2, 0), "it, and one of the others"


def test_new_keys_of_a_role_prove_a_few_files(case: Case) -> None:
    case.cover(case.listing(), "ASIA1", "one")
    assert case.cover(case.listing(), "ASIA2", "two") == (NEW_KEYS, 0)
    assert case.cover(case.listing(), "ASIA2", "two") == (0, 0)


def test_whose_keys_they_are_is_asked_again_when_nobody_said_so(case: Case) -> None:
    """The worker's memory knows for how long a silence counts; a second one here made it count for ever."""
    case.asked.silent = 1
    assert case.cover(case.listing(), "ASIA1", "one") == (30, 0)
    case.cover(case.listing(), "ASIA1", "one")
    assert case.cover(case.listing(), "ASIA2", "two") == (NEW_KEYS, 0)


@pytest.mark.parametrize("key", ["ASIA1", "ASIA2"])
def test_a_refusal_ends_all_that_was_proved_there(disk: Disk, key: str) -> None:
    case = Case(disk, proof_ttl=Duration(0))
    case.cover(case.listing(), "ASIA1", "ASIA1")
    case.asked.refuses = set(NAMES)
    with pytest.raises(SourceDenied):
        case.cover(case.listing(), key, key)
    case.asked.refuses = set()
    case.asked.took()
    assert case.cover(case.listing(), "ASIA1", "ASIA1") == (30, 0)


def test_nothing_is_remembered_before_all_of_it_was_shown(case: Case) -> None:
    case.cover(case.listing(), record=False)
    assert case.cover(case.listing()) == (30, 0)


def test_a_claimed_digest_is_compared_once_and_then_known(case: Case) -> None:
    case.came_from_elsewhere()
    assert case.cover(case.listing(claims=True)) == (0, 30)
    assert case.cover(case.listing(claims=True)) == (0, 0)
    assert case.cover(case.listing("v2", claims=True), key="ANOTHER") == (0, 0), "this place has those bytes"


def test_a_false_claim_is_refused_and_a_damaged_copy_of_ours_is_not_one(case: Case) -> None:
    case.came_from_elsewhere()
    case.asked.refuses = {"07"}
    with pytest.raises(SourceDenied):
        case.cover(case.listing(claims=True))
    case.asked.damaged = True
    with pytest.raises(SourceChanged):
        case.cover(case.listing(claims=True))
    assert case.disk.store.index.seen_at("s3://bucket/m", [Digest.of(b"07")]) == set()


def test_what_was_claimed_wrongly_once_is_compared_in_every_byte(case: Case) -> None:
    """Else who has a part of it tries until no other part is asked for."""
    case.came_from_elsewhere()
    case.asked.refuses = {"07"}
    with pytest.raises(SourceDenied):
        case.cover(case.listing(claims=True))
    assert case.asked.whole == []
    case.asked.refuses = set()
    case.asked.took()
    assert case.cover(case.listing(claims=True), key="ANOTHER") == (0, 30)
    assert case.asked.whole == ["07"]


def test_what_is_remembered_of_files_is_bounded_and_hashed(case: Case) -> None:
    proofs = case.disk.store.proofs
    proofs.add_proven("who", "place", [f"{number}" for number in range(70_000)])
    proofs.add_proven("who", "place", ["new"])
    (row,) = case.disk.store.index.query("SELECT length(files) AS bytes FROM proven WHERE who = 'who'")
    assert row["bytes"] == 65_536 * 16
    assert proofs.proven("who", "place", ["new", "another"]) == {"new"}
    for number in range(1100):
        proofs.add_proven(f"who {number}", "place", ["file"])
    assert case.disk.store.index.query("SELECT count(*) AS n FROM proven")[0]["n"] == 1024
    proofs.forget_older(4e9)
    assert case.disk.store.index.query("SELECT * FROM proven") == []


def test_of_the_files_of_a_place_those_proved_last_are_remembered(case: Case) -> None:
    proofs = case.disk.store.proofs
    sizes = {"a": 40_000, "b": 20_000, "c": 20_000}
    batches = [[f"{letter}{number}" for number in range(size)] for letter, size in sizes.items()]
    for files in batches:
        proofs.add_proven("who", "place", files)
    proofs.add_proven("who", "place", batches[1][:1])
    first, *later = batches
    assert len(proofs.proven("who", "place", first)) == 65_536 - 40_000
    for files in later:
        assert proofs.proven("who", "place", files) == set(files)


def test_who_proves_many_places_pushes_out_its_own_and_nobody_elses(case: Case) -> None:
    proofs = case.disk.store.proofs
    proofs.add_proven("another", "place", ["file"])
    for who in range(20):
        for number in range(70):
            proofs.add_proven(f"who {who}", f"place {number}", ["file"])
    rows = case.disk.store.index.query("SELECT who, count(*) AS n FROM proven GROUP BY who")
    places = {row["who"]: row["n"] for row in rows}
    assert places["another"] == 1 and max(places.values()) <= 64 and sum(places.values()) == 1024
    assert proofs.proven("who 19", "place 69", ["file"]) == {"file"}
