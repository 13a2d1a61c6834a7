"""In which order files are read ahead, beside vLLM's own rules."""

from __future__ import annotations

import pytest

from cached.prefetch.loading_order import SMALL, loading_order

MODEL = {
    "model-00010-of-00010.safetensors": 9,
    "model-00002-of-00010.safetensors": 9,
    "tokenizer.json": 5,
    "config.json": 1,
}


def test_small_files_come_first_and_weights_in_the_natural_order_of_their_names() -> None:
    sizes = {**MODEL, "model-9-of-00010.safetensors": 9}
    assert loading_order(sizes) == [
        "config.json",
        "tokenizer.json",
        "model-00002-of-00010.safetensors",
        "model-9-of-00010.safetensors",
        "model-00010-of-00010.safetensors",
    ]


def test_what_the_index_does_not_name_is_not_loaded() -> None:
    assert "old.safetensors" not in loading_order({**MODEL, "old.safetensors": 9}, [*MODEL])
    assert "old.safetensors" in loading_order({**MODEL, "old.safetensors": 9})


@pytest.mark.parametrize(
    ("present", "loaded"),
    [
        (["a.safetensors", "pytorch_model.bin"], ["a.safetensors"]),
        (["pytorch_model.bin", "consolidated.pt"], ["pytorch_model.bin"]),
        (["consolidated.safetensors", "model.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "original/consolidated.pth"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        (["unet/a.safetensors", "unet/a.bin", "vae/b.safetensors"], ["unet/a.safetensors", "vae/b.safetensors"]),
        (["m-Q4-00001-of-00002.gguf", "m-Q4-00002-of-00002.gguf"], None),
        (["m-Q4.gguf", "m-Q8.gguf"], []),
        ([], []),
    ],
)
def test_one_kind_of_weights_is_read_and_no_copy_of_them(present: list[str], loaded: list[str] | None) -> None:
    assert loading_order(dict.fromkeys(present, 9)) == (present if loaded is None else loaded)


def test_large_files_that_are_no_weights_are_left_where_they_are() -> None:
    assert loading_order({"film.mp4": SMALL + 1, "tokenizer.json": SMALL}) == ["tokenizer.json"]


@pytest.mark.serve
def test_vllm_reads_shards_in_the_same_order() -> None:
    from vllm.model_executor.model_loader.weight_utils import _natural_sort_key

    names = [f"model-{number}-of-12.safetensors" for number in range(1, 13)] + ["extra.safetensors", "10.safetensors"]
    assert loading_order(dict.fromkeys(names, 9)) == sorted(names, key=_natural_sort_key)
