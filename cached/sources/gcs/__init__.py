"""Google Cloud Storage: `gs://bucket/prefix`.

`source.py` lists and proves, `reader.py` reads ranges at a generation.
"""
