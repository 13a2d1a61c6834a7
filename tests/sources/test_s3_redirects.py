"""S3's answers are S3's: a redirect to another host is not followed, whoever it comes from."""

from __future__ import annotations

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import CachedError
from cached.model_ref import ModelRef
from cached.sources.s3.source import S3Source
from tests.servers import Files


@pytest.mark.parametrize("ref", ["s3://bucket/m", "s3://anonymous@bucket/m"])
def test_a_redirect_is_not_followed(ref: str) -> None:
    keys = Credentials({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    with Files({"/stolen": b"<ListBucketResult/>"}) as elsewhere, Files() as sending:
        sending.redirects = {"/bucket": f"{elsewhere.endpoint}/stolen", "/bucket/m": f"{elsewhere.endpoint}/stolen"}
        source = S3Source(Config(s3_endpoint=sending.endpoint, s3_region="us-east-1"))
        with pytest.raises(CachedError):
            source.resolve(ModelRef.parse(ref), keys, 5)
        source.close()
        assert sending.requests and elsewhere.requests == []
