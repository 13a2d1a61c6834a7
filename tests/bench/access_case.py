"""What it costs a bucket that each object is a right of its own: requests and seconds for a model of many files that
another caller has fetched. `python -m tests.bench.access_case [FILES]`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from aiohttp import web

from tests.bench.report import Found, table
from tests.daemon_process import DaemonProcess
from tests.servers import GuardedS3, RcloneS3

FILES = 2000
BUCKET, URI = "models", "s3://models/llama"
_IDENTITY = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    "<Arn>arn:aws:sts::123456789012:assumed-role/training/{}</Arn></GetCallerIdentityResult>"
    "</GetCallerIdentityResponse>"
)


class RoleS3(GuardedS3):
    """Its keys are those of sessions of one role. `identities`: how often it was asked whose they are."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.identities = 0

    async def meet(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("Action") == "GetCallerIdentity":
            self.identities += 1
            return web.Response(text=_IDENTITY.format(f"session-{self.identities}"), content_type="text/xml")
        return await super().meet(request)


def measure(files: int = FILES) -> Found:
    """Rows: a first caller that fetches, another of other keys, a hit, the same after `proof_ttl`, new keys of its
    role."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        model = Path(folder, "origin", BUCKET, "llama")
        model.mkdir(parents=True)
        for number in range(files):
            (model / f"{number:05}").write_text(f"{number}")
        upstream = running.enter_context(RcloneS3(Path(folder, "origin"), auth=False, listing_seconds=3600))
        s3 = running.enter_context(RoleS3(upstream.endpoint))
        for key in ("AKIAFIRST", "ASIAONE", "ASIATWO"):
            s3.allow(key, lists=[BUCKET], reads=[BUCKET])
        daemon = DaemonProcess(
            Path(folder, "target"), s3_endpoint=s3.endpoint, max_age="1h", proof_ttl="1h", check_timeout="60s"
        )

        def pull(row: str, key: str) -> None:
            session = {"AWS_SESSION_TOKEN": key} if key.startswith("ASIA") else {}
            rows[row] = _pull(daemon, s3, {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "s", **session})

        try:
            daemon.start()
            pull("fetched", "AKIAFIRST")
            pull("first", "ASIAONE")
            pull("hit", "ASIAONE")
            daemon.stop()
            daemon.start(proof_ttl=0)
            pull("after the TTL", "ASIAONE")
            daemon.stop()
            daemon.start(proof_ttl="1h")
            pull("new session keys", "ASIATWO")
        finally:
            daemon.close()
    return Found(f"A model of {files} files in a bucket, by whom it is asked for", 1, rows)


def _pull(daemon: DaemonProcess, s3: RoleS3, variables: Mapping[str, str]) -> dict[str, float]:
    s3.requests.clear()
    before, start = s3.identities, time.monotonic()
    with mock.patch.dict(os.environ, variables), daemon.client(timeout=600) as client:
        client.pull(URI)
    seconds = time.monotonic() - start
    listings = sum(name.endswith("/") for _, _, name in s3.requests)
    objects = len(s3.requests) - listings
    return {"seconds": seconds, "listings": listings, "objects": objects, "identities": s3.identities - before}


if __name__ == "__main__":
    print(table(measure(*map(int, sys.argv[1:]))))
