"""One frozen, validated Config: defaults, then a TOML file, then CACHED_* variables, then flags."""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from cached.errors import ConfigError

DEFAULT_FILE = Path("/etc/cached/config.toml")
DEFAULT_SOCKET = "/run/cached/cached.sock"

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGTP]i?B|B)?\s*\Z")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?\s*\Z")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Size(int):
    """A number of bytes. Typed as `20GiB`, `500MB` or a plain number."""

    @classmethod
    def parse(cls, value: object) -> Size:
        match = _SIZE.match(str(value)) if not isinstance(value, bool) else None
        if not match:
            raise ConfigError(f"{value!r} is not a size: write 20GiB, 500MB or a number of bytes.")
        unit = match[2] or "B"
        power = "BKMGTP".index(unit[0].upper())
        return cls(float(match[1]) * (1024 if "i" in unit else 1000) ** power)


class Duration(float):
    """A number of seconds. Typed as `90s`, `5m`, `2h`, `7d` or a plain number."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        match = _DURATION.match(str(value)) if not isinstance(value, bool) else None
        if not match:
            raise ConfigError(f"{value!r} is not a duration: write 90s, 5m, 2h, 7d or a number of seconds.")
        return cls(float(match[1]) * _SECONDS[match[2] or "s"])


class Share(float):
    """A share of the limit, between 0 and 1, or a number of bytes. Typed as `0.5`, or as a size."""

    @classmethod
    def parse(cls, value: object) -> Share:
        try:
            return cls(float(str(value)))
        except ValueError:
            return cls(Size.parse(value))

    def of(self, limit: int) -> int | None:
        """Return the share of `limit` in bytes; None for a share of 1, which is not bounded."""
        return None if self == 1.0 else int(self * limit) if self < 1.0 else int(self)


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, with its default and a comment that the README and the example file explain."""

    root: Path = Path("/var/lib/cached")  # Where blobs and snapshots live; one local file system.
    roots: tuple[str, ...] = ()  # Several such places, one for each disk, instead of `root`.
    socket: Path = Path(DEFAULT_SOCKET)  # The unix socket that clients use.
    socket_mode: str = "0660"  # Permissions of the socket, in octal.
    socket_group: str = ""  # Group of the socket; empty leaves the daemon's own.
    max_connections_per_user: int = 256  # Connections to the socket of each user but root and the daemon's own.
    listen: str = ""  # HOST:PORT of /metrics and /healthz over TCP; empty is off.
    admin_group: str = "cached-admin"  # Members may use admin verbs, beside root and the daemon's own user.
    limit: Size = Size(0)  # Bytes that blobs and reservations may take on each root; 0 means 90 % of the file system.
    keep_free: Size = Size(1 << 30)  # Bytes of each file system that are never reserved.
    high_watermark: float = 0.95  # Share of the limit above which eviction starts …
    low_watermark: float = 0.85  # … and down to which it goes.
    min_residency: Duration = Duration(600)  # Newer snapshots are evicted only when a fill finds no room otherwise.
    budgets: Mapping[str, Size] = field(default_factory=dict)  # Bytes that models of a URI prefix may take on a root.
    user_share: Share = Share(0.5)  # Share of the limit that a user may take before it takes from others; 1: any.
    max_model_size: Size = Size(0)  # The largest model that users other than administrators may fetch; 0 is no bound.
    scrub_interval: Duration = Duration(7 * 86400)  # How often every blob's pieces are checked; 0 is never.
    scrub_deep_interval: Duration = Duration(30 * 86400)  # How often every blob's sha256 is checked; 0 is never.
    scrub_rate: Size = Size(200_000_000)  # Bytes per second that these checks may read of each root.
    self_heal: bool = True  # Fetch damaged files again as soon as they are found.
    access: str = "caller"  # Callers that get a model: those that prove their access to it, or all on the node.
    proof_ttl: Duration = Duration(600)  # How long a proof of access is valid without a query to the source.
    proof_grace: Duration = Duration(86400)  # How long it is valid while the source is seen to be down.
    own_credentials_for: tuple[str, ...] = ("*",)  # Users, @groups, or * for all: they may use the daemon's.
    max_leases_per_user: int = 64  # How many snapshots of a root one user's leases keep from eviction; 0 is no bound.
    max_age: Duration = Duration(300)  # How long a movable name is valid without a query to the source.
    check_timeout: Duration = Duration(
        5
    )  # Bound on each network call of that query; after it, the cached model is served.
    resolve_timeout: Duration = Duration(30)  # Bound on each network call of a first resolve.
    max_files: int = 100_000  # Files at most that one model, or the place that it is chosen from, may have.
    listing_timeout: Duration = Duration(120)  # How long a source may take to list them all.
    read_timeout: Duration = Duration(60)  # How long a connection may deliver next to nothing.
    connections: int = 16  # The most ranged reads in flight, over all fills …
    min_connections: int = 4  # … and where each origin starts; more as long as that makes it faster.
    workers: int = 0  # Processes that fetch; 0 means one for each core, but no more than 4.
    bandwidth: Size = Size(0)  # Bytes per second that all fills together may take; 0 is no bound.
    engine: str = "auto"  # The engine for large files of the Hub: auto (our own) or hf_transfer.
    retries: int = 5  # Tries of one ranged read before the fill fails.
    protocols: tuple[str, ...] = ("hf", "s3", "gs")  # URI schemes that callers may name.
    private_networks: tuple[str, ...] = ()  # Networks (10.0.0.0/8) that http(s) URIs of callers may lead to.
    file_roots: tuple[str, ...] = ()  # Folders below which file:// may read; empty refuses it.
    hub_endpoint: str = ""  # The Hub; empty means HF_ENDPOINT, else https://huggingface.co.
    s3_endpoint: str = ""  # S3 endpoint; empty means AWS_ENDPOINT_URL, else Amazon's.
    s3_region: str = ""  # Region; empty means AWS's usual chain.
    s3_profile: str = ""  # Profile in the daemon's AWS configuration; empty means the default one.
    gs_endpoint: str = ""  # GCS endpoint; empty means STORAGE_EMULATOR_HOST, else Google's.
    azure_endpoint: str = ""  # Azure Blob Storage, {account} in it; empty means the public cloud.
    weights: str = "warn"  # Files that can run code when loaded (.bin .pt .pth .ckpt .pkl .py): allow, warn or refuse.
    log_level: str = "info"  # debug, info, warning or error.
    source_options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # fsspec options by protocol.

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ConfigError(problem)

    @classmethod
    def load(cls, file: Path | None = None, environ: Mapping[str, str] = os.environ, **flags: object) -> Config:
        """Read the file (the default one may be absent), then CACHED_* variables, then the flags that are not None.
        Raise ConfigError if a setting is unknown or wrong."""
        raw: dict[str, object] = _read(file)
        for name in _NAMES:
            variable = f"CACHED_{name.upper()}"
            if variable in environ and name in ("root", "roots"):  # The one that is set last counts.
                raw.pop("root", None), raw.pop("roots", None)
            if variable in environ and name not in _TABLES:
                raw[name] = _split(environ[variable]) if name in _LISTS else environ[variable]
        if "root" in raw and raw.get("roots"):
            raise ConfigError("Both 'root' and 'roots' are set; name all places in 'roots'.")
        if flags.get("root") is not None:
            raw.pop("roots", None)  # A flag comes before everything.
        raw.update({name: value for name, value in flags.items() if value is not None})
        unknown = sorted(raw.keys() - set(_NAMES))
        if unknown:
            where = f" in {file or DEFAULT_FILE}"
            raise ConfigError(f"Unknown setting {unknown[0]!r}{where}; the settings are {', '.join(_NAMES)}.")
        return replace(cls(), **{name: _coerce(name, value) for name, value in raw.items()})  # type: ignore[arg-type]

    @property
    def all_roots(self) -> tuple[Path, ...]:
        """Return every place where blobs and snapshots are stored; there is at least one."""
        return tuple(map(Path, self.roots)) or (self.root,)


_NAMES = [item.name for item in fields(Config)]
_LISTS = ("roots", "own_credentials_for", "protocols", "private_networks", "file_roots")
_TABLES = ("budgets", "source_options")
_TYPES = typing.get_type_hints(Config)


def _read(file: Path | None) -> dict[str, object]:
    try:
        return tomllib.loads((file or DEFAULT_FILE).read_text())
    except FileNotFoundError:
        if file is None:
            return {}
        raise ConfigError(f"There is no configuration file at {file}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration file {file or DEFAULT_FILE}: {error}.") from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _coerce(name: str, value: object) -> object:
    """Convert the value to the setting's type. Numbers and booleans may be text, as in variables; nothing else is
    guessed. Raise ConfigError if the type is wrong."""
    kind = _TYPES[name]
    wrong = ConfigError(f"The setting {name!r} must be {_SPOKEN.get(name, 'text')}, not {value!r}.")
    if kind in (Size, Duration, Share):
        try:
            return kind.parse(value)
        except ConfigError:
            raise wrong from None
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):  # From a variable.
            return str(value).lower() == "true"
        raise wrong
    if kind in (int, float):
        if isinstance(value, bool):
            raise wrong
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise wrong from None
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is str and isinstance(value, str):
        return value
    if kind == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if name == "budgets" and isinstance(value, dict):
        try:
            return types.MappingProxyType({prefix: Size.parse(size) for prefix, size in value.items()})
        except ConfigError:
            raise wrong from None
    if name == "source_options" and isinstance(value, dict) and all(isinstance(o, dict) for o in value.values()):
        return types.MappingProxyType(value)
    raise wrong


_SPOKEN = {
    **{name: "a size such as '20GiB'" for name in _NAMES if _TYPES[name] is Size},
    **{name: "a duration such as '5m'" for name in _NAMES if _TYPES[name] is Duration},
    **{name: "a share of the limit such as 0.5, or a size" for name in _NAMES if _TYPES[name] is Share},
    **{name: "a number" for name in _NAMES if _TYPES[name] in (int, float)},
    **{name: "true or false" for name in _NAMES if _TYPES[name] is bool},
    **dict.fromkeys(_LISTS, "a list of texts"),
    "budgets": "a table of sizes, one for each URI prefix",
    "source_options": "a table of tables, one for each protocol",
}


_WORDS = {
    "engine": ("auto", "hf_transfer"),
    "weights": ("allow", "warn", "refuse"),
    "access": ("caller", "node"),
    "log_level": ("debug", "info", "warning", "error"),
}


def _problem(config: Config) -> str | None:
    """Return a sentence about the first value that is wrong; None when all are in range."""
    if not 0 < config.low_watermark <= config.high_watermark <= 1:
        return "The watermarks must satisfy 0 < low_watermark <= high_watermark <= 1."
    if not 0 <= config.user_share < float("inf"):
        return "The setting 'user_share' must be a share of the limit between 0 and 1, or a size."
    if not re.match(r"0?[0-7]{3}\Z", config.socket_mode):
        return f"The setting 'socket_mode' must be octal permissions such as '0660', not {config.socket_mode!r}."
    if config.connections < 1 or config.min_connections < 1 or config.retries < 1:
        return "The settings 'connections', 'min_connections' and 'retries' must be at least 1."
    if not 1 <= config.max_files <= 10_000_000:
        return "The setting 'max_files' must be between 1 and 10000000."
    if config.max_connections_per_user < 1:
        return "The setting 'max_connections_per_user' must be at least 1."
    if not 0 <= config.workers <= 64:
        return "The setting 'workers' must be between 0 and 64."
    for name, words in _WORDS.items():
        if (value := getattr(config, name)) not in words:
            return f"The setting {name!r} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}."
    if config.listen and not re.match(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):[0-9]{1,5}\Z", config.listen):
        return f"The setting 'listen' must be HOST:PORT, not {config.listen!r}."
    if not all(root.is_absolute() for root in config.all_roots) or not config.socket.is_absolute():
        return "The settings 'root', 'roots' and 'socket' must be absolute paths."
    if any(a != b and a.is_relative_to(b) for a in config.all_roots for b in config.all_roots):
        return "No root may lie within another; correct the setting 'roots'."
    if len(set(config.all_roots)) < len(config.all_roots):
        return "The setting 'roots' names a place twice."
    if (odd := next((text for text in config.private_networks if not _is_network(text)), None)) is not None:
        return f"The setting 'private_networks' must list networks such as '10.0.0.0/8' or 'fd12::/16', not {odd!r}."
    if config.max_leases_per_user < 0:
        return "The setting 'max_leases_per_user' must be at least 1, or 0 for no bound."
    if config.scrub_rate < 1_000_000:
        return "The setting 'scrub_rate' must be at least 1MB; to switch scrubbing off set 'scrub_interval' to 0."
    if odd := next((prefix for prefix in config.budgets if "://" not in prefix), None):
        return f"A budget is for a URI prefix such as 's3://bucket/' or 'hf://org/', not {odd!r}."
    return None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
