"""LoRA adapters out of the cache: `adapter.py` finds and holds one, `ray_patch.py` makes Ray Serve LLM ask it, for
every LLMConfig whose callback is ours, and `engine.py` knows which adapters an engine still reads, so that none is
given back before.
"""
