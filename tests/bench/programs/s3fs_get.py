"""A recursive `get` of a prefix."""

import sys

import s3fs

endpoint, bucket, prefix, target = sys.argv[1:]
s3fs.S3FileSystem(endpoint_url=endpoint).get(f"{bucket}/{prefix}/", target + "/", recursive=True)
