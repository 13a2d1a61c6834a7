"""The user's settings for the use of the cache by a replica."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FALLBACKS = ("remote", "error")
SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """The `callback_kwargs`. Invalid values raise ValueError with one sentence."""

    fallback: str = "remote"  # When there is no daemon: let Ray load from the source, or fail the replica ("error").
    socket: str | None = None  # The daemon's; None is $CACHED_SOCKET of the replica, else the default.
    include: tuple[str, ...] = ()  # Only files that match one of these patterns.
    exclude: tuple[str, ...] = ()  # No file that matches one of these.
    max_age: float | None = None  # Seconds for which a moving revision is good; None leaves it to the daemon.
    timeout: float | None = None  # Seconds for the model to be ready; None waits as long as it progresses.
    prefetch: float = SHARE  # Share of the memory that is available into which files may be read ahead of the engine.
    lora_path: str | None = None  # Where adapters are, in URIs that Ray's own setting refuses; None is Ray's setting.

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Make settings from keywords or YAML, where patterns may be lists. Raises ValueError."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"Unknown setting {unknown[0]!r} of the model cache; the settings are {', '.join(names)}.")
        values = dict(given)
        for name in ("include", "exclude"):
            values[name] = _patterns(name, values.get(name) or ())
        if values.get("socket") is not None:
            values["socket"] = str(values["socket"])
        values["lora_path"] = _uri("lora_path", values.get("lora_path"))
        for name in ("max_age", "timeout"):
            values[name] = _seconds(name, values.get(name))
        values["prefetch"] = _share("prefetch", values.get("prefetch"))
        settings = cls(**values)
        if settings.fallback not in FALLBACKS:
            raise ValueError(f"The setting 'fallback' must be 'remote' or 'error', not {settings.fallback!r}.")
        return settings

    def plain(self) -> dict[str, Any]:
        """Return the settings as keywords again, without the defaults, for `callback_kwargs`."""
        default = Settings()
        return {name: value for name, value in asdict(self).items() if value != getattr(default, name)}


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"The setting {name!r} must be a list of patterns, not {value!r}.")
    return texts


def _uri(name: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and "://" in value):
        return value
    raise ValueError(f"The setting {name!r} must be a URI such as 'hf://org', not {value!r}.")


def _share(name: str, value: Any) -> float:
    """Return the share: True and None mean the default, False means 0. Raises ValueError."""
    if value is None or isinstance(value, bool):
        return 0.0 if value is False else SHARE
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"The setting {name!r} must be true, false or a share from 0 to 1, not {value!r}.")
    return float(value)


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"The setting {name!r} must be a number of seconds, not {value!r}.")
    return float(value)
