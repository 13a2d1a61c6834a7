"""Accounts of Google: the metadata of a machine, the place that gives tokens for keys, and a GCS that wants a token.

with GcsEmulator() as gcs, Google(gcs.endpoint) as google: google.endpoint (of GCS), google.environment, google.key()
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.servers.front import Front

_FLAVOR = {"Metadata-Flavor": "Google"}


class Google(Front):
    """`shown` is every token (or "" for none) that GCS was shown."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.shown: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What makes google-auth take this for the machine's metadata."""
        host = urlsplit(self.endpoint).netloc
        return {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "NO_GCE_CHECK": "false"}

    @property
    def token_uri(self) -> str:
        return f"{self.endpoint}/token"

    def key(self, email: str = "caller@project.example") -> str:
        """The text of a service account's file."""
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        about = {"type": "service_account", "client_email": email, "token_uri": self.token_uri}
        return json.dumps({**about, "private_key": text, "private_key_id": "1", "project_id": "project"})

    def routes(self) -> list[web.RouteDef]:
        account = "/computeMetadata/v1/instance/service-accounts/default"
        return [
            web.get("/", self._ping),
            web.get("/computeMetadata/v1/project/project-id", self._project),
            web.get(account + "/", self._account),
            web.get(account + "/token", self._machines_token),
            web.post("/token", self._keys_token),
        ]

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(headers=_FLAVOR)

    async def _project(self, request: web.Request) -> web.Response:
        return web.Response(text="project", headers=_FLAVOR)

    async def _account(self, request: web.Request) -> web.Response:
        return web.json_response({"email": "machine@project.example", "scopes": ["storage"]}, headers=_FLAVOR)

    async def _machines_token(self, request: web.Request) -> web.Response:
        found = {"access_token": "of-the-machine", "expires_in": 3600, "token_type": "Bearer"}
        return web.json_response(found, headers=_FLAVOR)

    async def _keys_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        right = str(form.get("assertion", "")).count(".") == 2
        return web.json_response({"access_token": "of-the-key", "expires_in": 3600}, status=200 if right else 400)

    async def meet(self, request: web.Request) -> web.StreamResponse:
        self.shown.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if not self.shown[-1]:
            return web.json_response({"error": {"code": 401}}, status=401)
        return await self.forward(request)
