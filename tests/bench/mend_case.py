"""What a few flipped bits in a large file cost: found, and mended with no more than their pieces fetched again."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cached.model import PIECE_BYTES
from tests.bench.case import Case, Options
from tests.bench.data import MIB, write_sparse
from tests.bench.report import Found
from tests.bench.s3_cases import URI, model_folder, s3_server
from tests.daemon_process import DaemonProcess
from tests.page_cache import on_a_disk
from tests.servers import CountingProxy

FLIPPED = 3
PATIENCE = 1800.0  # Seconds; disks may be slow.


def _measure(options: Options) -> Found:
    with on_a_disk() as folder:  # The file, its damaged copy, and the mended one: three times its size.
        return mended(folder, int(options.mend_gib * 1024) * MIB)


def mended(folder: Path, size: int) -> Found:
    write_sparse(model_folder(folder), [size])
    found = Found(f"A file of {size / 2**30:g} GiB with {FLIPPED} flipped bits", 1, {}, place="disk")
    with s3_server(folder) as server, CountingProxy(server.endpoint) as proxy:
        daemon = DaemonProcess(folder / "target", s3_endpoint=proxy.endpoint, self_heal=False, scrub_interval=0)
        daemon.environment = dict(server.credentials)
        try:
            with daemon.start().client(timeout=PATIENCE) as client:
                client.pull(URI, timeout=PATIENCE)
            daemon.stop()
            _flip(daemon.root / "blobs", size)
            with daemon.start().client(timeout=PATIENCE) as client:
                proxy.reset()
                for name, repair in (("found", False), ("mended", True)):
                    began = time.monotonic()
                    (report,) = client.call("POST", "/v1/verify", {"repair": repair})["damaged"]
                    row = {"seconds": time.monotonic() - began, "fetched_MB": proxy.bytes_down / 1e6}
                    found.rows[f"{name}: {report['problem']}" if not repair else name] = row
                if not report["repaired"] or client.call("POST", "/v1/verify", {"deep": True})["damaged"]:
                    raise RuntimeError(f"it was not mended: {report}")
        finally:
            daemon.close()
    return found


def _flip(blobs: Path, size: int) -> None:
    """Three bits in three pieces, so that neither size nor times tell."""
    (blob,) = (path for path in blobs.rglob("*") if path.stat().st_size == size)
    before = blob.stat()
    pieces = size // PIECE_BYTES
    with blob.open("r+b") as file:
        for number in range(FLIPPED):
            file.seek(pieces * number // FLIPPED * PIECE_BYTES + 1000 * number)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))


MEND_CASE = Case("mend", _measure, long=True)
