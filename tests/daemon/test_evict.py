"""Choosing what goes: pure, so that it can be tried on thousands of stores."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cached.daemon.space.eviction_policy import Budget, Candidate, Rows, budget_of, choose
from cached.model import Digest

BLOBS = [f"blob{i}" for i in range(8)]
SIZES = {blob: 10 * (i + 1) for i, blob in enumerate(BLOBS)}

candidates = st.lists(
    st.builds(
        Candidate,
        digest=st.integers(0, 10**6).map(lambda n: Digest.of(str(n).encode())),
        source=st.just("org/name"),
        used_at=st.integers(0, 20).map(float),
        blobs=st.frozensets(st.sampled_from(BLOBS), min_size=1),
        kept=st.booleans(),
        young=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.digest,
)
held = st.frozensets(st.sampled_from(BLOBS))


def freed(everyone: list[Candidate], gone: set[Digest], held_blobs: frozenset[str]) -> int:
    left = frozenset().union(*(c.blobs for c in everyone if c.digest not in gone)) | held_blobs
    return sum(SIZES[blob] for blob in frozenset().union(*(c.blobs for c in everyone)) - left)


@given(candidates, held, st.integers(1, 500))
def test_what_is_kept_never_goes_and_what_goes_frees_what_it_says(
    everyone: list[Candidate], held_blobs: frozenset[str], need: int
) -> None:
    victims = choose(Rows(tuple(everyone), SIZES, held_blobs), need)
    gone = {victim.digest for victim in victims}
    assert not gone & {candidate.digest for candidate in everyone if candidate.kept}
    orphans_before = freed(everyone, set(), held_blobs)
    assert sum(victim.frees for victim in victims) == freed(everyone, gone, held_blobs) - orphans_before


@given(candidates, held, st.integers(1, 500))
def test_the_least_recently_used_go_first_the_young_last_and_no_more_than_needed(
    everyone: list[Candidate], held_blobs: frozenset[str], need: int
) -> None:
    victims = choose(Rows(tuple(everyone), SIZES, held_blobs), need)
    free = sorted((c for c in everyone if not c.kept), key=lambda c: (c.young, c.used_at, c.digest))
    assert [victim.digest for victim in victims] == [c.digest for c in free[: len(victims)]]
    assert sum(victim.frees for victim in victims[:-1]) < need


@given(candidates, held)
def test_when_nothing_is_needed_nothing_goes(everyone: list[Candidate], held_blobs: frozenset[str]) -> None:
    assert choose(Rows(tuple(everyone), SIZES, held_blobs), 0) == []


def test_a_blob_that_a_newer_snapshot_shares_frees_nothing() -> None:
    old = Candidate(Digest.of(b"old"), "a", 1.0, frozenset({"blob0", "blob1"}))
    new = Candidate(Digest.of(b"new"), "b", 2.0, frozenset({"blob0"}))
    (victim,) = choose(Rows((new, old), SIZES), 1)
    assert (victim.digest, victim.frees) == (old.digest, SIZES["blob1"])


def test_the_reason_says_when_it_was_used_last() -> None:
    old = Candidate(Digest.of(b"old"), "a", 0.0, frozenset({"blob0"}))
    (victim,) = choose(Rows((old,), SIZES), 1)
    assert victim.why == "least recently used (last at 1970-01-01T00:00:00Z)"


def test_the_budget_with_the_longest_prefix_covers_a_source() -> None:
    budgets = {"s3://": 1, "s3://bucket": 2, "s3://bucket/tests/": 3, "hf://org/name": 4}
    found = {
        source: budget_of(source, budgets)
        for source in ("s3://bucket/tests/m", "s3://bucket/m", "s3://bucket2/m", "hf://org/name@main", "gs://b/m")
    }
    assert found == {
        "s3://bucket/tests/m": Budget("s3://bucket/tests/", 3),
        "s3://bucket/m": Budget("s3://bucket", 2),
        "s3://bucket2/m": Budget("s3://", 1),
        "hf://org/name@main": Budget("hf://org/name", 4),
        "gs://b/m": None,
    }
