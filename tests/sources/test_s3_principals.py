"""For whom temporary keys count: a role, whatever its sessions are called; and nobody where nobody says so."""

from __future__ import annotations

import time
from collections.abc import Iterator

import boto3  # type: ignore[import-untyped]
import pytest
from aiohttp import web

from cached.access import Credentials
from cached.config import Config
from cached.sources.s3.source import S3Source
from tests.servers import Moto
from tests.servers.front import Front
from tests.servers.process import free_port


class Counting(Front):
    """Counts what is asked of the token service, and may say something else than the server behind."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.asked, self.says = 0, ""

    def routes(self) -> list[web.RouteDef]:
        return []

    async def meet(self, request: web.Request) -> web.StreamResponse:
        assert "/sts/aws4_request" in request.headers["Authorization"]
        self.asked += 1
        return web.Response(text=self.says) if self.says else await self.forward(request)


@pytest.fixture
def front(moto: Moto) -> Iterator[Counting]:
    with Counting(moto.endpoint) as server:
        yield server


@pytest.fixture
def source(front: Counting) -> Iterator[S3Source]:
    found = S3Source(Config(s3_endpoint=front.endpoint))
    yield found
    found.close()


def session(moto: Moto, role: str, name: str) -> Credentials:
    """Keys as AWS gives them to a process that takes a role."""
    known = {"aws_access_key_id": "AKIAA", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    sts = boto3.session.Session().client("sts", endpoint_url=moto.endpoint, **known)
    keys = sts.assume_role(RoleArn=f"arn:aws:iam::123456789012:role/{role}", RoleSessionName=name)["Credentials"]
    names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
    return Credentials(
        {**{ours: keys[theirs] for ours, theirs in names.items()}, "AWS_SESSION_TOKEN": keys["SessionToken"]}
    )


def test_sessions_of_one_role_are_one_principal_and_those_of_another_are_not(moto: Moto, source: S3Source) -> None:
    first, second = (source.principal(session(moto, "trainer", name), 10) for name in ("pod-1", "pod-2"))
    other = source.principal(session(moto, "visitor", "pod-1"), 10)
    assert first and "123456789012" in first and "trainer" in first and "pod" not in first
    assert other and other != first
    assert first == second


def test_keys_are_asked_about_once(moto: Moto, source: S3Source, front: Counting) -> None:
    caller = session(moto, "trainer", "pod-1")
    assert source.principal(caller, 10) == source.principal(caller, 10) is not None
    assert front.asked == 1


def test_the_same_access_key_with_another_secret_is_another_question(
    moto: Moto, source: S3Source, front: Counting
) -> None:
    caller = session(moto, "trainer", "pod-1")
    source.principal(caller, 10)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        source.principal(Credentials({**caller.variables, name: "guessed"}), 10)
    assert front.asked == 3


def test_keys_that_are_not_temporary_are_nobodys_and_nobody_is_asked(source: S3Source, front: Counting) -> None:
    for variables in ({}, {"AWS_ACCESS_KEY_ID": "AKIAA", "AWS_SECRET_ACCESS_KEY": "s"}, {"AWS_SESSION_TOKEN": "t"}):
        assert source.principal(Credentials(variables), 10) is None
    assert front.asked == 0


@pytest.mark.parametrize(
    "says",
    [
        "<ListAllMyBucketsResult/>",
        "not XML",
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"/>',
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Arn>arn:aws:sts::1:federated-user/f'
        "</Arn></GetCallerIdentityResponse>",
    ],
    ids=["another service", "nonsense", "nobody", "rights that come with the token"],
)
def test_an_answer_that_names_no_role_and_no_user_names_nobody(
    moto: Moto, source: S3Source, front: Counting, says: str
) -> None:
    front.says = says
    caller = session(moto, "trainer", "pod-1")
    assert source.principal(caller, 10) is source.principal(caller, 10) is None
    assert front.asked == 1, "who did not answer is left alone for a while"


def test_where_nobody_answers_there_is_no_principal(moto: Moto) -> None:
    source = S3Source(Config(s3_endpoint=f"http://127.0.0.1:{free_port()}"))
    began = time.monotonic()
    assert source.principal(session(moto, "trainer", "pod-1"), 2) is None
    assert time.monotonic() - began < 30
    source.close()
