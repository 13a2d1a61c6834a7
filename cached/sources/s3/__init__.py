"""S3 and servers that are compatible with it: `s3://bucket/prefix`.

`source.py` is the source; `place.py` knows endpoints and addressing styles, `session.py` and `signer.py` select the
keys and sign requests (`sigv4.py`), `principal.py` finds the owner of temporary keys, `listing.py` pages through a
prefix, `reader.py` reads ranges at an ETag, and `errors.py` translates error codes. The meaning of a name depends on
the caller's own keys: another tenant's bucket may have the same name.
"""
