"""What may be fetched for whom: rules over file names, applied to a listing before the first byte."""

from __future__ import annotations

import logging
from collections.abc import Set

from cached.errors import InvalidRequest, ModelIncomplete
from cached.model import Listing, ModelRef

log = logging.getLogger("cached.policy")

# Pickles and Python run code when they are loaded (PyTorch CVE-2025-32434, vLLM CVE-2026-22807).
RUNS_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py")
_CONFIGS = ("config.json", "params.json")  # Transformers', Mistral's.


def check_weights(listing: Listing, policy: str) -> None:
    """InvalidRequest when the listing holds files that run code and the policy refuses them."""
    risky = [entry.path for entry in listing.entries if entry.path.endswith(RUNS_CODE)]
    if not risky or policy == "allow":
        return
    if policy == "refuse":
        raise InvalidRequest(
            f"{listing.ref} holds files that run code when loaded ({', '.join(risky[:3])}), and the setting `weights` "
            "refuses those; exclude them, or use a model in safetensors."
        )
    log.warning("weights.run_code", extra={"ref": str(listing.ref), "files": ", ".join(risky[:3])})


def check_loadable(ref: ModelRef, paths: Set[str]) -> None:
    """ModelIncomplete unless an LLM engine would find its configuration among these paths."""
    if not any(name in paths for name in _CONFIGS) and not any(path.endswith(".gguf") for path in paths):
        raise ModelIncomplete(f"{ref} has no config.json, so no engine could load it; check the URI and the patterns.")
