"""A node's role: the metadata endpoints that hand out its keys, and an S3 that takes only the keys of now.

with Moto() as s3, Role(s3.endpoint) as role: role.environment("instance"), role.endpoint
role.rotate()          new keys from now on; the old ones are refused as expired
role.rotate_after(n)   by itself, once n more requests for objects have come
"""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta

from aiohttp import web

from tests.servers.front import Front

_KEY = re.compile(r"Credential=([^/]+)/")


class Role(Front):
    """Its endpoint is that of S3 and of the metadata.

    `shown` is every access key (or "" for none) that S3 was shown; `asked` every request for keys.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.shown: list[str] = []
        self.asked: list[str] = []
        self.lifetime = timedelta(hours=6)
        self._numbers = itertools.count(1)
        self._left: int | None = None
        self.key = ""
        self.rotate()

    def environment(self, kind: str) -> dict[str, str]:
        """What a daemon on such a machine has: `instance` as on EC2, `container` as on ECS and EKS."""
        if kind == "instance":
            return {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.endpoint}
        uri = f"{self.endpoint}/container/keys"
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pass-word"}

    def rotate(self) -> None:
        self.key = f"ASIAROLE{next(self._numbers):04}"

    def rotate_after(self, count: int) -> None:
        self._left = count

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put("/latest/api/token", self._token),
            web.get("/latest/meta-data/iam/security-credentials/{role:.*}", self._instance),
            web.get("/container/keys", self._container),
        ]

    async def _token(self, request: web.Request) -> web.Response:
        return web.Response(text="imds-token")

    async def _instance(self, request: web.Request) -> web.Response:
        """Version 2 alone: who brings no token gets nothing."""
        if request.headers.get("X-aws-ec2-metadata-token") != "imds-token":
            return web.Response(status=401)
        if not request.match_info["role"]:
            return web.Response(text="node-role")
        self.asked.append("instance")
        return web.json_response({"Code": "Success", "Type": "AWS-HMAC", **self._keys()})

    async def _container(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "pass-word":
            return web.Response(status=401)
        self.asked.append("container")
        return web.json_response(self._keys())

    def _keys(self) -> dict[str, str]:
        until = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"AccessKeyId": self.key, "SecretAccessKey": "secret", "Token": "session", "Expiration": until}

    async def meet(self, request: web.Request) -> web.StreamResponse:
        if self._left is not None and "list-type" not in request.query:
            self._left -= 1
            if self._left < 0:
                self._left = None
                self.rotate()
        found = _KEY.search(request.headers.get("Authorization", ""))
        self.shown.append(found[1] if found else "")
        if self.shown[-1] != self.key:
            code = "ExpiredToken" if self.shown[-1] else "AccessDenied"
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
            return web.Response(status=400 if found else 403, text=body, content_type="application/xml")
        return await self.forward(request)
