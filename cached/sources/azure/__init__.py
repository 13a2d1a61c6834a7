"""Azure Blob Storage and Data Lake: `az://container/prefix` and its kin. `source.py` lists through adlfs, `login.py`
makes credentials of a caller's variables, `reader.py` reads ranges at an ETag, `errors.py` translates error codes."""
