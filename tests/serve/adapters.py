"""LoRA adapters for the tests' Llama, in PEFT's format: strong enough that each changes what the model says."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

from cached import Lease
from serve_integration.lora.adapter import adapter_reference
from serve_integration.replica.acquire import acquire
from serve_integration.settings import Settings

RANK = 4


def make_adapter(
    seed: int, *, hidden: int = 64, layers: int = 2, rank: int = RANK, **config: object
) -> dict[str, bytes]:
    """The two files of one for `q_proj` and `v_proj`, by name."""
    random = np.random.default_rng(seed)
    head = 32  # The Llama has one head of keys and values.
    weights = {}
    for layer in range(layers):
        for module, rows in (("q_proj", hidden), ("v_proj", head)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{name}.lora_A.weight"] = random.normal(size=(rank, hidden)).astype(np.float32)
            weights[f"{name}.lora_B.weight"] = random.normal(size=(rows, rank)).astype(np.float32)
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 8 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        **config,
    }
    return {"adapter_config.json": json.dumps(said).encode(), "adapter_model.safetensors": save(weights)}


async def take_here(uri: str, settings: Settings) -> Lease:
    """What a replica on one node does."""
    _, lease = await acquire(adapter_reference(uri), settings)
    return lease
