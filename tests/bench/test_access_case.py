"""What proving costs, in requests."""

from __future__ import annotations

from cached.daemon.acquire.rights import NEW_KEYS
from tests.bench.access_case import measure


def test_a_role_proves_a_model_once_and_its_next_session_a_few_files() -> None:
    files = 40
    rows = measure(files).rows

    def asked(row: str) -> tuple[float, float, float]:
        return rows[row]["listings"], rows[row]["objects"], rows[row]["identities"]

    assert asked("first") == (1, files, 1)
    assert asked("hit") == (0, 0, 0)
    assert asked("after the TTL")[:2] == (1, 1)
    assert asked("new session keys") == (1, NEW_KEYS, 1)
