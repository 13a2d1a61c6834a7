"""Lean models: what vLLM does not read is not fetched, and the whole model does as well where it is here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cached import InvalidRequest, ModelIncomplete, NotCached
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.worker.policy import leave_out
from tests.daemon_process import DaemonProcess
from tests.servers import HubStub

ESSENTIAL = {
    "config.json": b"{}",
    "tokenizer.model": b"words",
    "modeling_own.py": b"",
    "model.safetensors": os.urandom(30_000),
    "1_Pooling/config.json": b"{}",
    "2_Dense/pytorch_model.bin": b"dense",
    "speakers.pt": b"speakers",
}
IDLE = {
    "original/consolidated.00.pth": os.urandom(30_000),
    "original/params.json": b"{ }",
    "metal/model.bin": b"metal",
    "pytorch_model.bin": os.urandom(30_000),
    "tf_model.h5": b"tensorflow",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
    "onnx/model.onnx_data": b"weights",
}


def left_of(*paths: str, lean: bool = True) -> set[str]:
    ref = ModelRef.parse("org/name", lean=lean)
    entries = tuple(Entry(path, 1, "v") for path in paths)
    return {entry.path for entry in leave_out(Listing(ref, "hf://hub/org/name", "c", entries)).entries}


def test_what_vllm_does_not_read_is_left_out_and_nothing_else() -> None:
    assert left_of(*ESSENTIAL, *IDLE) == set(ESSENTIAL)


def test_of_a_sharded_model_in_both_formats_the_pickled_shards_and_their_index_are_left_out() -> None:
    safe = {"model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    assert left_of(*safe, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json") == safe


def test_what_access_is_proved_on_is_the_sources_choice_and_so_nothing_stays_for_it() -> None:
    assert left_of("z.json", "zz.safetensors", "original/_") == {"z.json", "zz.safetensors"}
    probe, config = Entry("original/_", 1, "v"), Entry("config.json", 1, "v")
    listing = Listing(ModelRef.parse("org/name", lean=True), "hf://hub/org/name", "c", (config, probe), probe=probe)
    assert leave_out(listing).entries == (config,)
    assert leave_out(listing).probe == probe


@pytest.mark.parametrize(
    "paths",
    [
        ("pytorch_model.bin", "config.json"),  # There is nothing else to load.
        ("consolidated.safetensors", "model.safetensors", "params.json"),  # Which of them depends on the engine.
        ("model-q4.gguf", "config.json"),
        ("original/consolidated.00.pth",),  # Else nothing were left.
    ],
    ids=lambda paths: paths[0],
)
def test_what_may_be_all_that_there_is_stays(paths: tuple[str, ...]) -> None:
    assert left_of(*paths) == set(paths)


def test_nothing_is_left_out_unasked() -> None:
    assert left_of(*ESSENTIAL, *IDLE, lean=False) == {*ESSENTIAL, *IDLE}


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        stub.add_commit("org/name", {**ESSENTIAL, **IDLE})
        yield stub


@pytest.fixture
def node(daemon: DaemonProcess, hub: HubStub) -> DaemonProcess:
    return daemon.start(hub_endpoint=hub.endpoint, max_age=0)


def fetched(hub: HubStub) -> int:
    return sum(hub.file_bytes.values())


def names(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def size(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def test_a_lean_model_is_fetched_without_them_and_the_rest_alone_when_somebody_wants_it_whole(
    node: DaemonProcess, hub: HubStub
) -> None:
    with node.client() as client:
        lean = client.pull("org/name", lean=True, require="llm")
        assert names(lean.path) == set(ESSENTIAL)
        assert fetched(hub) == size(ESSENTIAL)
        assert client.pull("org/name", lean=True).hit
        with pytest.raises(NotCached):
            client.path("org/name")
        whole = client.pull("org/name")
        assert names(whole.path) == {*ESSENTIAL, *IDLE}
        assert fetched(hub) == size(ESSENTIAL) + size(IDLE)


def test_where_the_model_is_here_whole_it_does_for_a_lean_one_without_the_network(
    node: DaemonProcess, hub: HubStub
) -> None:
    with node.client() as client:
        whole = client.pull("org/name")
        hub.requests.clear()
        assert client.path("org/name", lean=True).path == whole.path
        assert hub.requests == []
        again = client.pull("org/name", lean=True)
        assert (again.path, again.hit) == (whole.path, True)


def test_of_a_lean_model_and_the_whole_one_that_is_handed_out_which_is_newer(
    daemon: DaemonProcess, hub: HubStub
) -> None:
    daemon.start(hub_endpoint=hub.endpoint, max_age="1h")
    with daemon.client() as client:
        client.pull("org/name", lean=True)
        newer = hub.add_commit("org/name", {"model.safetensors": b"newer"})
        client.pull("org/name", max_age=0)
        assert client.path("org/name", lean=True).revision == newer


def test_a_damaged_lean_model_is_mended_as_it_was(node: DaemonProcess, hub: HubStub) -> None:
    with node.client() as client:
        lean = client.pull("org/name", lean=True)
        client.pull("org/name")
        weights = Path(lean.path, "model.safetensors")
        weights.chmod(0o644)
        weights.write_bytes(bytes(len(ESSENTIAL["model.safetensors"])))
        client.call("POST", "/v1/verify", {"deep": True, "repair": True})
        assert weights.read_bytes() == ESSENTIAL["model.safetensors"]
        assert names(lean.path) == set(ESSENTIAL)


def test_pickles_beside_safetensors_are_no_reason_to_refuse_a_lean_model(daemon: DaemonProcess, hub: HubStub) -> None:
    hub.add_commit("org/both", {"config.json": b"{}", "model.safetensors": b"safe", "pytorch_model.bin": b"code"})
    daemon.start(hub_endpoint=hub.endpoint, weights="refuse")
    with daemon.client() as client:
        with pytest.raises(InvalidRequest, match="weights"):
            client.pull("org/both")
        assert names(client.pull("org/both", lean=True).path) == {"config.json", "model.safetensors"}


def test_a_lean_model_still_needs_what_an_engine_needs(node: DaemonProcess, hub: HubStub) -> None:
    hub.add_commit("org/bare", {"model.safetensors": b"safe", "tf_model.h5": b"tensorflow"})
    with node.client() as client, pytest.raises(ModelIncomplete, match=r"config\.json"):
        client.pull("org/bare", lean=True, require="llm")
