"""Where the models of `make bench-serve` come from, how Ray finds its way there, and the bytes that were sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.case import LeftOut
from tests.bench.hub_origin import LARGE, REPO, HubOrigin
from tests.bench.nginx import Nginx, nginx_path
from tests.bench.s3_cases import URI, model_folder, s3_server
from tests.servers import CountingProxy
from tests.servers.hub_state import LARGE as LARGE_NAMES


@dataclass(frozen=True, slots=True)
class Origin:
    """`variables` are those of a replica, `settings` and `secrets` the daemon's, `clock` goes into an LLMConfig of
    Ray's own and notes when its files are there. `sent` counts bytes so far, headers included.
    """

    source: str
    variables: dict[str, str]
    settings: dict[str, str]
    clock: dict[str, Any]
    sent: Callable[[], int]
    secrets: dict[str, str] = field(default_factory=dict)


@contextmanager
def s3_origin(folder: Path) -> Iterator[Origin]:
    """`model_folder(folder)` in a bucket."""
    with s3_server(folder) as server:
        yield Origin(
            URI,
            {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1", **server.credentials},
            {"s3_endpoint": server.endpoint},
            {"callback_config": {"callback_class": "tests.bench.node_clock.NodeClock"}},
            server.written,
            server.credentials,
        )


@contextmanager
def hub_origin(folder: Path) -> Iterator[Origin]:
    """The same files as a repository: large ones come from nginx, which counts like the S3 server; the API through a
    proxy, since the stub's process does not.
    """
    if nginx_path() is None:
        raise LeftOut("nginx is not installed (Debian's nginx-light has all that is needed)")
    content, small = folder / "content", folder / "hub"
    _as_repository(model_folder(folder), content, small)
    with Nginx(content) as cdn, HubOrigin(small, cdn.endpoint) as hub, CountingProxy(hub.endpoint) as proxy:
        yield Origin(
            REPO,
            {"HF_ENDPOINT": proxy.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"},
            {"hub_endpoint": proxy.endpoint},
            {"engine_kwargs": {"worker_extension_cls": "tests.bench.weights_clock.WeightsClock"}},
            lambda: cdn.written() + proxy.bytes_down,
        )


def _as_repository(model: Path, content: Path, small: Path) -> None:
    """Large files under their sha256, the others under their names beside a list of the large ones; nothing copied."""
    content.mkdir()
    small.mkdir()
    large = {}
    for path in model.iterdir():
        if not path.name.endswith(LARGE_NAMES):
            (small / path.name).hardlink_to(path)
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (content / digest).hardlink_to(path)
        large[path.name] = {"size": path.stat().st_size, "sha256": digest}
    (small / LARGE).write_text(json.dumps(large))
