"""A cold model from the Hub: the stub of its API in one process, the content network behind its links is nginx."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench.case import Case, LeftOut, Options
from tests.bench.data import MIB, name_of, on_tmpfs, scratch, write
from tests.bench.hub_origin import LARGE, REPO, HubOrigin
from tests.bench.measure import Cost, in_turn, program, pull
from tests.bench.nginx import Nginx, nginx_path
from tests.bench.peers import copy, program_path, script
from tests.bench.report import Found, beside, figures
from tests.daemon_process import clean_environment

SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt", "README.md")
TITLE = "Hub, 4 shards of 256 MiB and 6 small files"


def _measure(options: Options) -> Found:
    if nginx_path() is None:
        raise LeftOut("nginx is not installed (Debian's nginx-light has all that is needed)")
    sizes = [256 * MIB] * 4
    with scratch(2 * sum(sizes)) as folder:
        return beside_peers(folder, TITLE, sizes, options)


def beside_peers(folder: Path, title: str, sizes: Sequence[int], options: Options) -> Found:
    """Those that ask for URLs get the shards' own, without the API and the small files."""
    content, hub = folder / "content", folder / "hub"
    digests, small = _model(content, hub, sizes)
    total = sum(sizes) + small
    found = Found(title, options.rounds, {}, place="tmpfs" if on_tmpfs(folder) else "disk")
    with Nginx(content) as cdn, HubOrigin(hub, cdn.endpoint) as origin:
        urls = [f"{cdn.endpoint}/{digest}" for digest in digests]
        shards = folder / "urls"
        shards.write_text("".join(f"{url}\n" for url in urls))

        def ours(target: Path) -> Cost:
            return pull(target, f"hf://{REPO}", total, {}, hub_endpoint=origin.endpoint)

        clients: dict[str, Callable[[Path], Cost]] = {"cached": ours}
        for name, command in _commands(content, urls, shards, options).items():
            clients[name] = partial(_theirs, command, sum(sizes), origin.endpoint)
        costs = in_turn(folder, options.rounds, clients, found.failed.__setitem__)
    found.rows = {
        name: figures(taken, total if name in ("cached", "hf") else sum(sizes)) for name, taken in costs.items()
    }
    found.notes = {**beside(costs, "hf"), **beside(costs, "aria2c")}
    return found


def _model(content: Path, hub: Path, sizes: Sequence[int]) -> tuple[list[str], int]:
    """The shards under their sha256, and the small files with the list of the large ones; digests, small bytes."""
    write(content, sizes)
    hub.mkdir()
    known = {}
    for number, size in enumerate(sizes):
        with (content / name_of(number)).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (content / name_of(number)).rename(content / digest)
        known[name_of(number)] = {"size": size, "sha256": digest}
    for name in SMALL:
        (hub / name).write_bytes(name.encode() * 500)
    (hub / LARGE).write_text(json.dumps(known))
    return [entry["sha256"] for entry in known.values()], sum(len(name) * 500 for name in SMALL)


Command = Callable[[Path], list[str]]


def _commands(content: Path, urls: Sequence[str], shards: Path, options: Options) -> dict[str, Command]:
    """The peers that are installed."""
    hf, aria2c = program_path("hf"), program_path("aria2c")
    aria = [str(aria2c), "--no-conf", "-q", "-x8", "-s8", "-k16M", "-j4", "--file-allocation=none", "-i", str(shards)]
    every: dict[str, tuple[bool, Command]] = {
        "hf": (hf is not None, lambda target: [str(hf), "download", REPO, "--cache-dir", str(target)]),
        "hf_transfer": (
            importlib.util.find_spec("hf_transfer") is not None,
            lambda target: script("hf_transfer_download.py", str(target), *urls),
        ),
        "aria2c": (aria2c is not None, lambda target: [*aria, "-d", str(target)]),
        "cp": (True, lambda target: copy(content, target)),
    }
    missing = [name for name, (there, _) in every.items() if not there]
    if missing:
        options.say(f"not installed, left out: {', '.join(missing)}")
    return {name: command for name, (there, command) in every.items() if there}


def _theirs(command: Command, size: int, endpoint: str, target: Path) -> Cost:
    environment = clean_environment(
        HF_ENDPOINT=endpoint,
        HF_HOME=str(target / "home"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    return program(command(target), target, size, environment)


HUB_CASE = Case("hub", _measure)
