"""The bench of loading measures what it says it does, with a small model."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.case import LeftOut, Options
from tests.bench.loading import node
from tests.bench.loading_cases import Node, engine_starts, same_as_a_copy, strategies
from tests.bench.read_ahead import device_with_read_ahead, read_ahead_kib
from tests.bench.report import table
from tests.page_cache import forget_all, on_a_disk, resident


@pytest.fixture
def small() -> Iterator[Node]:
    from tests.demo.llama import make_llama

    with on_a_disk() as folder, node(folder / "node", make_llama(folder / "model")) as found:
        yield found


def test_cold_is_looked_at_and_waited_for() -> None:
    with on_a_disk() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(bytes(1 << 20))
        forget_all([path])
        assert resident(path) == 0
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped.read(1 << 20) == bytes(1 << 20)  # What is mapped by somebody stays.
            with pytest.raises(RuntimeError, match="stayed in the page cache"):
                forget_all([path], 0.2)
            threading.Timer(0.2, mapped.close).start()
            forget_all([path])
        assert resident(path) == 0


def test_a_device_reads_ahead_as_little_as_asked() -> None:
    with on_a_disk() as folder:
        try:
            with device_with_read_ahead(folder / "device", 32 << 20, 64) as place:
                assert read_ahead_kib(place) == 64
                (place / "file").write_bytes(b"x")
        except LeftOut as why:
            pytest.skip(str(why))
        assert list((folder / "device").iterdir()) == [folder / "device" / "mounted"]


@pytest.mark.serve
def test_each_way_of_loading_is_measured(small: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.loading_cases.FILLS", 2)
    monkeypatch.setattr("tests.bench.loading_cases.PAIRS", 2)
    copy = same_as_a_copy(small, Options(rounds=1))
    assert set(copy.rows) == {"from the cache's path", "from a plain copy"}
    found = strategies(small, Options(rounds=1))
    assert {"vLLM's default", "prefetch", "eager", "enable_multithread_load"} <= set(found.rows)
    for row in found.rows.values():
        assert row["cold_seconds"] > 0 and row["warm_seconds"] > 0
    assert all(name in table(found) for name in found.rows)


@pytest.mark.serve
@pytest.mark.timeout(600)
def test_engines_start_on_a_cold_model_with_and_without_reading_ahead(small: Node) -> None:
    found = engine_starts(small, Options(rounds=1, say=lambda _: None))
    assert set(found.rows) == {"without reading ahead", "read ahead"}
    assert all(0 < row["weights_s"] < row["start_s"] for row in found.rows.values())
    assert Path(small.held).exists()
    assert found.notes["GB that had been read ahead"] > 0
