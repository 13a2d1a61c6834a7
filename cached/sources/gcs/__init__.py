"""Google Cloud Storage: `gs://bucket/prefix`.

`source.py` lists objects and proves access, `reader.py` reads ranges at a generation.
"""
