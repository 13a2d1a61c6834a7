"""The location of an S3 bucket: the endpoint that is really used, because a bucket's name means something only there.

Amazon's names are unique in a partition (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html):
`models` of China, of GovCloud and of the commercial regions are three buckets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from cached.config import Config
from cached.sources.s3.session import partitions

COMMERCIAL = "amazonaws.com"  # The word for the partition `aws`; the others go by their names.


def endpoint_of(config: Config, options: Mapping[str, Any]) -> str:
    """Return the endpoint that the operator has named, in order of precedence; else empty, and botocore finds one, in
    the AWS configuration's files or by the region."""
    client = options.get("client_kwargs")
    named = (
        options.get("endpoint_url"),
        config.s3_endpoint,
        client.get("endpoint_url") if isinstance(client, Mapping) else None,
        os.environ.get("AWS_ENDPOINT_URL_S3"),
        os.environ.get("AWS_ENDPOINT_URL"),
    )
    return next((str(endpoint) for endpoint in named if endpoint), "")


def word(endpoint: str, partition: str, region: str) -> str:
    """Return the word for the endpoint in a place. `partition` and `region` are as botocore determines them."""
    if is_amazons(endpoint, region):
        return COMMERCIAL if partition == "aws" else partition
    return endpoint.partition("://")[2].rstrip("/")


def is_amazons(endpoint: str, region: str) -> bool:
    """Return True if the endpoint is Amazon's own, of that region. An endpoint from a file may be of another partition
    than the region beside it: then places name the endpoint itself."""
    host = (urlsplit(endpoint).hostname or "").lower()
    own = any(host.endswith(f".{suffix}") for suffix in _suffixes())
    return own and (host == f"s3.{COMMERCIAL}" or region.lower() in host.split("."))


def suffix_of(partition: str) -> str:
    """Return the suffix of the host names in a partition; empty if the partition is not known."""
    return next((str(found["outputs"]["dnsSuffix"]) for found in partitions() if found["id"] == partition), "")


@cache
def _suffixes() -> frozenset[str]:
    """Return the suffixes of the host names of Amazon's own endpoints."""
    outputs = [partition["outputs"] for partition in partitions()]
    return frozenset(output[name] for output in outputs for name in ("dnsSuffix", "dualStackDnsSuffix"))
