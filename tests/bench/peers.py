"""The programs that we are timed beside, each as one command that fetches a whole prefix or model into a folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent

_BOTO3 = """
import os, sys, boto3
endpoint, bucket, prefix, target = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
    for item in page["Contents"]:
        s3.download_file(bucket, item["Key"], os.path.join(target, os.path.basename(item["Key"])))
"""
_S3FS = """
import sys, s3fs
endpoint, bucket, prefix, target = sys.argv[1:]
s3fs.S3FileSystem(endpoint_url=endpoint).get(f"{bucket}/{prefix}/", target + "/", recursive=True)
"""
_OBSTORE = """
import os, sys, obstore
from concurrent.futures import ThreadPoolExecutor
from obstore.store import S3Store
endpoint, bucket, prefix, target = sys.argv[1:]
store = S3Store(bucket, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
def fetch(item):  # Whole objects: it takes no range that comes with status 200, as rclone's do.
    with open(os.path.join(target, os.path.basename(item["path"])), "wb") as file:
        for chunk in obstore.get(store, item["path"]).stream(min_chunk_size=1 << 20):
            file.write(chunk)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, obstore.list(store, prefix=prefix).collect()))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model is: an S3 server with a bucket and a prefix, and the same files as a folder."""

    endpoint: str
    bucket: str
    prefix: str
    folder: Path


Command = Callable[[Place, Path], list[str]]


def _program(name: str) -> str | None:
    return str(BIN / name) if (BIN / name).exists() else shutil.which(name)


def _script(text: str) -> Command:
    return lambda place, target: [sys.executable, "-c", text, place.endpoint, place.bucket, place.prefix, str(target)]


def _s5cmd(place: Place, target: Path) -> list[str]:
    source = f"s3://{place.bucket}/{place.prefix}/*"
    return [str(_program("s5cmd")), "--endpoint-url", place.endpoint, "--log", "error", "cp", source, f"{target}/"]


def _rclone(place: Place, target: Path) -> list[str]:
    remote = f":s3,provider=Rclone,env_auth=true,endpoint='{place.endpoint}':{place.bucket}/{place.prefix}"
    return [str(_program("rclone")), "copy", "--config", os.devnull, "--transfers", "8", remote, str(target)]


def _cp(place: Place, target: Path) -> list[str]:
    return ["cp", "-r", str(place.folder), str(target)]


def available() -> tuple[dict[str, Command], list[str]]:
    """The S3 peers that are installed, by name, and the names of those that are not."""
    every: dict[str, tuple[bool, Command]] = {
        "s5cmd": (_program("s5cmd") is not None, _s5cmd),
        "rclone": (_program("rclone") is not None, _rclone),
        "boto3": (importlib.util.find_spec("boto3") is not None, _script(_BOTO3)),
        "s3fs": (importlib.util.find_spec("s3fs") is not None, _script(_S3FS)),
        "obstore": (importlib.util.find_spec("obstore") is not None, _script(_OBSTORE)),
        "cp": (True, _cp),
    }
    there = {name: command for name, (found, command) in every.items() if found}
    return there, [name for name in every if name not in there]
