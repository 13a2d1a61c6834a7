"""LoRA adapters from the cache: `adapter.py` finds and holds one, `ray_patch.py` makes Ray Serve LLM request it, for
every LLMConfig whose callback is ours, and `engine.py` records the adapters that an engine still reads, so that none is
released before."""
