"""`hf_transfer.download` of each URL, one after the other, eight ranges at once."""

import os
import sys

import hf_transfer

target, *urls = sys.argv[1:]
for url in urls:
    hf_transfer.download(
        url=url,
        filename=os.path.join(target, url.rpartition("/")[2]),
        max_files=8,
        chunk_size=10 << 20,
        parallel_failures=3,
        max_retries=5,
    )
