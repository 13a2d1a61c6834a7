"""Credentials where they come in: what may stand in them, and what is said when something else does."""

from __future__ import annotations

import json

import pytest

from cached.client.request import credentials
from cached.daemon.http.acquire_request import Acquire
from cached.daemon.main import check_variables
from cached.errors import ConfigError, InvalidRequest
from cached.variables import ALPHABETS, MAX_LENGTH, cleaned
from cached.wire import FORWARDED

KEY = "-----BEGIN PRIVATE KEY-----\nMIIcanary\n-----END PRIVATE KEY-----\n"
GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS_JSON"
SOUND = {
    **dict.fromkeys(FORWARDED, "canary"),
    "AWS_REGION": "us-gov-west-1",
    "AZURE_TENANT_ID": "contoso.onmicrosoft.com",
    GOOGLE: json.dumps({"type": "service_account", "private_key": KEY, "client_email": "a@b"}, indent=1),
}
SMUGGLED = "canary\n\nHEAD /pub/copy.json HTTP/1.1\nHost: x\nX-Rest: y"


def test_every_variable_that_is_forwarded_has_an_alphabet() -> None:
    assert set(ALPHABETS) == set(FORWARDED)


def test_what_is_sound_passes_as_it_is() -> None:
    assert cleaned(SOUND) == SOUND


@pytest.mark.parametrize("name", FORWARDED)
def test_white_space_at_the_ends_is_none_of_it(name: str) -> None:
    assert cleaned({name: f" \t{SOUND[name]}\r\n"}) == {name: SOUND[name]}
    assert cleaned({name: " \n"}) == {}


@pytest.mark.parametrize(
    "odd", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\xa0", "é", "\u202e", "\u2028", "\ud800"], ids=ascii
)
@pytest.mark.parametrize("name", [name for name in FORWARDED if name != GOOGLE])
def test_what_could_end_a_line_is_refused_by_name_and_not_repeated(name: str, odd: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        cleaned({name: f"canary{odd}canary"})
    assert "canary" not in caught.value.message


@pytest.mark.parametrize(
    "name, value",
    [
        ("AWS_REGION", "x.evil.com/#"),
        ("AWS_REGION", "evil.com"),
        ("AWS_DEFAULT_REGION", "x@evil"),
        ("AWS_REGION", "-x"),
        ("AZURE_TENANT_ID", "x/../y"),
        ("AZURE_TENANT_ID", "..canary"),
        ("AZURE_TENANT_ID", "x?y"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "evil.com/"),
        ("HF_TOKEN", "two words"),
        ("HF_TOKEN", "x" * (MAX_LENGTH + 1)),
        (GOOGLE, "canary"),
        (GOOGLE, '["canary"]'),
        (GOOGLE, "[" * 15_000),
        (GOOGLE, json.dumps({"client_email": SMUGGLED})),
        (GOOGLE, json.dumps({"private_key": 1})),
        (GOOGLE, json.dumps({"private_key": "é"})),
        (GOOGLE, json.dumps({"trust_boundary": {"encodedLocations": SMUGGLED}})),
        (GOOGLE, json.dumps({"a": [{SMUGGLED: 1}]})),
    ],
)
def test_what_could_leave_its_place_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        cleaned({name: value})
    assert "canary" not in caught.value.message and "evil" not in caught.value.message


def test_a_request_that_carries_such_a_thing_is_refused_by_the_daemon() -> None:
    with pytest.raises(InvalidRequest, match="AWS_SESSION_TOKEN"):
        Acquire.parse({"uri": "s3://b/m", "credentials": {"AWS_SESSION_TOKEN": SMUGGLED}})
    parsed = Acquire.parse({"uri": "s3://b/m", "credentials": {"AWS_SESSION_TOKEN": "t\n", "OTHER": "\n"}})
    assert dict(parsed.credentials.variables) == {"AWS_SESSION_TOKEN": "t"}


def test_a_client_does_not_even_send_it() -> None:
    with pytest.raises(InvalidRequest, match="HF_TOKEN"):
        credentials({"HF_TOKEN": SMUGGLED})
    assert credentials({"HF_TOKEN": "hf_x\n"}) == {"HF_TOKEN": "hf_x"}


def test_the_daemons_own_are_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x\n")
    check_variables()
    monkeypatch.setenv("AWS_SESSION_TOKEN", SMUGGLED)
    with pytest.raises(ConfigError, match="AWS_SESSION_TOKEN"):
        check_variables()
