"""Models: which one an LLMConfig means, and what an engine calls its files.

`model_source.py` reads Ray's configuration without Ray, `formats.py` says what the engine is given of a model that is
here, a directory or a file of it, and `gguf.py` knows quantisations in one file or several.
"""
