"""Whole objects in eight threads: obstore takes no range that comes with status 200, as those of rclone do."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

endpoint, bucket, prefix, target = sys.argv[1:]
store = S3Store(bucket, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})


def fetch(item):
    with open(os.path.join(target, os.path.basename(item["path"])), "wb") as file:
        for chunk in obstore.get(store, item["path"]).stream(min_chunk_size=1 << 20):
            file.write(chunk)


with ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, obstore.list(store, prefix=prefix).collect()))
