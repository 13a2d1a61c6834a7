"""Cold models from `rclone serve s3` on the same machine, ours and the peers' in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import peers
from tests.bench.case import Case, Options
from tests.bench.data import MIB, on_tmpfs, scratch, small_sizes, write
from tests.bench.measure import Cost, in_turn, program, pull
from tests.bench.peers import PEERS, Place
from tests.bench.report import Found, beside, figures
from tests.daemon_process import clean_environment
from tests.servers import RcloneS3

BUCKET, MODEL = "models", "model"
URI = f"s3://{BUCKET}/{MODEL}"


@contextmanager
def s3_server(folder: Path, mib_per_second: int = 0) -> Iterator[RcloneS3]:
    """It lists a folder once, as a real server's index would be there already, and does not hash whole files."""
    origin = folder / "origin"
    with RcloneS3(origin, etags=False, listing_seconds=3600, mib_per_second=mib_per_second) as server:
        yield server


def model_folder(folder: Path) -> Path:
    return folder / "origin" / BUCKET / MODEL


def beside_peers(folder: Path, title: str, sizes: Sequence[int], names: Sequence[str], options: Options) -> Found:
    """`cached` and these peers, each into an empty folder below `folder`."""
    total = sum(sizes)
    write(model_folder(folder), sizes)
    missing = peers.absent(names)
    if missing:
        options.say(f"not installed, left out: {', '.join(missing)}")
    found = Found(title, options.rounds, {}, place="tmpfs" if on_tmpfs(folder) else "disk")
    with s3_server(folder) as server:
        place = Place(server.endpoint, BUCKET, MODEL, model_folder(folder))
        environment = clean_environment(AWS_REGION="us-east-1", **server.credentials)

        def ours(target: Path) -> Cost:
            return pull(target, URI, total, server.credentials, s3_endpoint=server.endpoint)

        def theirs(name: str, target: Path) -> Cost:
            return program(PEERS[name].command(place, target), target, total, environment)

        clients = {"cached": ours, **{name: partial(theirs, name) for name in names if name not in missing}}
        costs = in_turn(folder, options.rounds, clients, found.failed.__setitem__)
    found.rows = {name: figures(taken, total, len(sizes)) for name, taken in costs.items()}
    found.notes = beside(costs, "s5cmd")
    return found


def _case(name: str, title: str, sizes: Sequence[int], names: Sequence[str]) -> Case:
    def measure(options: Options) -> Found:
        with scratch(2 * sum(sizes)) as folder:
            return beside_peers(folder, title, sizes, names, options)

    return Case(name, measure)


S3_CASES = (
    _case("s3-large", "S3, 4 files of 512 MiB", [512 * MIB] * 4, list(PEERS)),
    _case("s3-one", "S3, one file of 4 GiB", [4096 * MIB], ["s5cmd"]),
    _case("s3-small", "S3, 2,000 files of 4 to 64 KiB", small_sizes(), ["s5cmd", "rclone", "s3fs"]),
)
