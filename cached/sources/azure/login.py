"""Credentials for Azure: a caller's variables or the daemon's own, by the rules of adlfs and azure-identity."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

from cached.model_ref import ModelRef
from cached.sources.transport.ranges import denied

# adlfs's options, as the variables that mean the same.
_OPTIONS = {
    "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
    "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
    "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "sas_token": "AZURE_STORAGE_SAS_TOKEN",
    "tenant_id": "AZURE_TENANT_ID",
    "client_id": "AZURE_CLIENT_ID",
    "client_secret": "AZURE_CLIENT_SECRET",
    "anon": "AZURE_STORAGE_ANON",
}
# https://learn.microsoft.com/rest/api/storageservices/create-service-sas, and the pages beside it.
_SAS = frozenset(
    (
        *("sv", "ss", "srt", "sp", "se", "st", "spr", "sip", "sig", "sr", "si", "ses", "sdd"),
        *("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "skdutid", "sduoid"),
        *("rscc", "rscd", "rsce", "rscl", "rsct"),
    )
)
_QUERY = re.compile(r"[A-Za-z0-9%&=+/:.,~_-]+\Z")
_LONG = "AZURE_STORAGE_"  # The prefix of adlfs's own names for azure-identity's AZURE_TENANT_ID and so on.


def own_variables(options: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the daemon's own variables, from `source_options`, else from its environment."""
    found = {}
    for option, name in _OPTIONS.items():
        value = options.get(option) or environ.get(name) or environ.get(name.replace("AZURE_", _LONG, 1))
        if value:
            found[name] = str(value)
    return found


def login(ref: ModelRef, account: str, variables: Mapping[str, str]) -> Any:
    """Return the credential that the variables hold for this account; None if they hold none.

    A connection string gives its key or token and nothing else: the endpoint in it is not the caller's to choose. Raise
    SourceDenied if the variables cannot be used.
    """
    parts = _parts(variables.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    name = parts.get("accountname") or variables.get("AZURE_STORAGE_ACCOUNT_NAME")
    key = parts.get("accountkey") or variables.get("AZURE_STORAGE_ACCOUNT_KEY")
    token = parts.get("sharedaccesssignature") or variables.get("AZURE_STORAGE_SAS_TOKEN")
    fits = name in (None, account)  # A key belongs to one account.
    if key and fits:
        return AzureNamedKeyCredential(account, _checked(ref, key))
    if token and fits:
        return AzureSasCredential(_signed_only(ref, token.lstrip("?")))
    if variables.get("AZURE_CLIENT_SECRET"):
        return _principal(ref, variables)
    if key or token:
        raise denied(ref, "the Azure key or token is for another account; check AZURE_STORAGE_ACCOUNT_NAME")
    return None


def default_login() -> Any:
    """Return azure-identity's chain (environment, workload identity, managed identity …), for the daemon alone."""
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()


def _principal(ref: ModelRef, variables: Mapping[str, str]) -> Any:
    from azure.identity.aio import ClientSecretCredential

    values = [variables.get(name, "") for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")]
    try:
        return ClientSecretCredential(*values)
    except ValueError:
        raise denied(ref, "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET are not usable together") from None


def _parts(connection_string: str) -> dict[str, str]:
    """Return the parts of a connection string by lower-case name."""
    pairs = (part.partition("=") for part in connection_string.split(";"))
    return {name.strip().lower(): value.strip() for name, separator, value in pairs if separator}


def _signed_only(ref: ModelRef, token: str) -> str:
    """Return a SAS that holds nothing else: it becomes a part of each query, and other parts could change its meaning.
    Raise SourceDenied otherwise."""
    names = [pair.partition("=")[0] for pair in token.split("&")]
    if not _SAS.issuperset(names) or len(set(names)) < len(names) or not _QUERY.match(token):
        raise denied(ref, "the Azure SAS is not one; check AZURE_STORAGE_SAS_TOKEN")
    return token


def _checked(ref: ModelRef, key: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise denied(ref, "the Azure account key is not one; check AZURE_STORAGE_ACCOUNT_KEY") from None
    return key
