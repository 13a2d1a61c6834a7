"""Rules over names cost as much as the names are long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cached import InvalidRequest
from cached.model import Entry, Listing
from cached.model_ref import ModelRef
from cached.worker.policy import _idle, applied

_RULE = re.compile(  # The same in one expression, which takes quadratic time.
    r"(original|metal)/|(.*/)?(onnx|coreml|openvino)/"
    r"|(.*/)?(flax_model.*\.msgpack|tf_model.*\.h5|rust_model\.ot|.*\.onnx(_data)?|.*\.tflite|.*\.mlmodel)\Z"
)
_WORDS = ("original", "metal", "/", "onnx", "coreml", "flax_model", ".msgpack", "tf_model", ".h5", "rust_model.ot", "x")
_MORE = (".onnx", ".onnx_data", ".tflite", ".mlmodel", "-")


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from((*_WORDS, *_MORE)), min_size=1, max_size=7).map("".join))
def test_what_no_engine_reads_is_told_by_folders_and_ends_as_by_the_expression(path: str) -> None:
    assert _idle(path, safe=False) == (_RULE.match(path) is not None)


def test_a_listing_is_judged_where_it_was_fetched() -> None:
    entries = tuple(Entry(path, 1, "v") for path in ("config.json", "model.safetensors", "pytorch_model.bin"))
    listing = Listing(ModelRef.parse("org/name", lean=True), "hf://hub/org/name", "c", entries)
    assert [entry.path for entry in applied(listing, "refuse", "llm").entries] == ["config.json", "model.safetensors"]
    with pytest.raises(InvalidRequest, match="run code"):
        applied(Listing(ModelRef.parse("org/name"), "hf://hub/org/name", "c", entries), "refuse", None)
