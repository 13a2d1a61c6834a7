"""S3 by moto: honours If-Match, knows versions; its objects live in memory. Any keys are accepted."""

from __future__ import annotations

import functools
from typing import Any

from tests.servers.process import BIN, ServerProcess

ACCESS_KEY, SECRET_KEY = "AKIAEXAMPLE", "SECRETEXAMPLE"


class S3Server(ServerProcess):
    """What the S3 servers have in common: keys, and objects put through the S3 protocol itself."""

    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def credentials(self) -> dict[str, str]:
        """The variables that give a client access."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 client with the right keys."""
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
        )

    def bucket(self, name: str, *, versioned: bool = False) -> str:
        """Make the bucket, unless it is there already."""
        if name not in {item["Name"] for item in self.client.list_buckets()["Buckets"]}:
            self.client.create_bucket(Bucket=name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.bucket(bucket)
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)


class Moto(S3Server):
    def command(self) -> list[str]:
        return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]
