"""S3 and what speaks it: `s3://bucket/prefix`.

`source.py` is the source; `place.py` knows endpoints and addressing styles, `session.py` and `signer.py` whose keys are
used and how requests are signed (`sigv4.py`), `principal.py` whose temporary keys they are, `listing.py` pages through
a prefix, `reader.py` reads ranges at an ETag, and `errors.py` says what a code means. Names mean what a caller's own
keys make of them: another tenant's bucket may be called the same.
"""
