"""Models: the model that an LLMConfig means, and the engine's names for its files.

`model_source.py` reads Ray's configuration without Ray, `formats.py` chooses the engine's name for a cached model, a
directory or a file of it, and `gguf.py` handles quantisations in one file or several.
"""
