"""Deployments that are no LLMConfig: acquire a model for the life of a replica, in one call of its constructor."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cached import CachedError, Client, DaemonUnavailable, InvalidRequest, Lease
from serve_integration.models.formats import name_of
from serve_integration.models.model_source import NO_FALLBACK, Reference, is_local, ray_form, reference
from serve_integration.replica.acquire import described, log, options, read_ahead
from serve_integration.replica.report import report
from serve_integration.settings import Settings

_leases: list[Lease] = []  # The leases that this process holds, until it ends.


def hold_for_replica(uri: str, *, revision: str | None = None, require: str | None = None, **settings: Any) -> str:
    """Acquire the model, and return where it is on this node: a directory, or the file that a GGUF name means. It is
    held until the process ends.

    `settings` are the options of `cached_llm_config`. Without a daemon, `fallback="remote"` (the default) warns and
    returns a name that the library loads from the source by itself, unless that would lose a revision. A local path is
    returned as it is, and so is a name of no place that the cache knows. `require="llm"` refuses a model that an LLM
    engine could not load. Raises the errors of `cached`, in one sentence that names the model.
    """
    chosen = Settings.of(settings)
    found = reference(uri, None)
    if found is None:
        if revision is not None and not is_local(uri):
            raise InvalidRequest(
                f"Cannot load {uri} at the revision {revision!r}: it names no place that the cache knows, and its name "
                "alone means another; write hf://org/name for a repository of the Hub."
            )
        return uri
    wanted = replace(found, revision=revision or found.revision, for_engine=require == "llm")
    started = time.monotonic()
    try:
        lease = Client(chosen.socket).acquire(wanted.uri, **options(wanted, chosen))
    except DaemonUnavailable as error:
        return _at_source(wanted, chosen, error)
    except CachedError as error:
        raise type(error)(_sentence(wanted, error)) from error
    name = _name_in(lease, wanted)
    _leases.append(lease)
    read_ahead(lease, chosen)
    report(wanted, described(lease, started))
    return name


def _name_in(lease: Lease, wanted: Reference) -> str:
    """Return the name for the caller to load. On an error the lease is released, and CachedError raised."""
    try:
        return name_of(wanted, lease.path, {})
    except CachedError as error:
        lease.release()
        raise type(error)(_sentence(wanted, error)) from error


def _at_source(wanted: Reference, settings: Settings, error: DaemonUnavailable) -> str:
    name, revision = ray_form(wanted) or (wanted.uri, wanted.revision)
    if settings.fallback == "error":
        raise DaemonUnavailable(f"{_sentence(wanted, error)} Or allow fallback='remote'.") from error
    if revision is not None or wanted.is_ambiguous:
        raise DaemonUnavailable(f"{_sentence(wanted, error)} {NO_FALLBACK}") from error
    log.warning("%s The replica gets %s, and loads it from the source.", _sentence(wanted, error), name)
    return name


def _sentence(wanted: Reference, error: CachedError) -> str:
    return f"Cannot load {wanted} through the model cache: {error.message}"
