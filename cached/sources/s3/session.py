"""Sessions of botocore that read its data files once for a process, instead of once for each client, which takes a
tenth of a second and 900 directories."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from aiohttp import ClientError
from botocore.loaders import Loader, create_loader  # type: ignore[import-untyped]

_loader: Loader = create_loader()


def preload() -> None:
    """Read the data that every S3 client will need."""
    _loader.list_available_services(type_name="service-2")
    _loader.load_service_model("s3", "service-2")
    for name in ("endpoints", "partitions", "sdk-default-configuration"):
        _loader.load_data(name)
    with contextlib.suppress(Exception):  # A wrong configuration is reported when it is used.
        asyncio.run(_rehearse())


def partitions() -> list[Any]:
    """Return Amazon's partitions, from botocore's data."""
    found: list[Any] = _loader.load_data("partitions")["partitions"]
    return found


async def _rehearse() -> None:
    """Make a client that is never used, with keys of its own, so that none are searched for: the first client of a
    process takes three times as long as the next."""
    async with new_session(None).create_client(
        "s3",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=AioConfig(defaults_mode="legacy"),  # Another mode may query the machine's metadata for its region.
    ):
        pass


class Staying(AIOHTTPSession):  # type: ignore[misc]
    """An HTTP session that follows no redirect: aiohttp would follow any, and send a session token along.

    botocore itself understands S3's redirects, and repeats the request in the region that they name.
    """

    async def _get_session(self, proxy_url: str | None) -> _Unredirected:
        return _Unredirected(await super()._get_session(proxy_url))


class SentElsewhere(ClientError):
    """The server that answers for S3 redirects, and not to a region."""


class _Unredirected:
    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> Any:
        answer = await self._session.request(method, **{**options, "allow_redirects": False})
        if 300 <= answer.status < 400 and answer.status != 304 and "x-amz-bucket-region" not in answer.headers:
            answer.close()
            raise SentElsewhere  # botocore would query the same place for the region, without end.
        return answer


def new_session(profile: str | None) -> AioSession:
    session = AioSession(profile=profile)
    session.register_component("data_loader", _loader)
    return session
