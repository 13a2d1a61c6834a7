"""What earlier versions wrote down of a URL's query is hidden at the next start, and its model stays."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from cached.model_ref import ModelRef
from cached.store.index.row_seals import teach
from tests.daemon_process import DaemonProcess
from tests.servers import Files

CANARY = "CANARY4f1f"
PATH = "/dir/model.gguf"


def test_a_root_with_queries_serves_as_before_and_names_none(daemon: DaemonProcess) -> None:
    with Files({PATH: b"weights" * 1000}) as files:
        url = f"{files.endpoint}{PATH}?X-Amz-Signature={CANARY}"
        daemon.start(protocols=["http"], private_networks=["127.0.0.0/8"], max_age="1h")
        with daemon.client() as client:
            digest = client.acquire(url).digest
        daemon.stop()
        undo(daemon.root, url)
        assert CANARY in contents(daemon.root)
        files.requests.clear()
        daemon.start()
        with daemon.client() as client:
            lease = client.acquire(url)
            assert (lease.digest, lease.hit) == (digest, True)
            asked = client.acquire(url, max_age=0)  # The file that was listed is the one that is here.
        assert asked.digest == digest
        assert {headers.get("range") for _, headers in files.requests} == {"bytes=0-0"}
        daemon.stop()
        assert CANARY not in contents(daemon.root)


def undo(root: Path, url: str) -> None:
    """Make the root what an earlier version would have written."""
    hidden = ModelRef.parse(url).uri
    with sqlite3.connect(root / "index.db") as db:
        teach(db)
        for table, column in (("resolution", "ref"), ("snapshot", "ref"), ("identity", "identity")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (hidden, url))
        for table in ("resolution", "snapshot", "event"):
            db.execute(f"UPDATE {table} SET source = ?", (url,))
        db.execute("UPDATE event SET why = why || ' ' || ?", (f"(it came from {url})",))
        db.execute("UPDATE resolution SET seal = seal(ref, source, revision, snapshot, access)")
        db.execute("UPDATE identity SET seal = seal(identity, blob)")
        assert db.execute("DELETE FROM _sqlite_migrations WHERE name = 'queries_hashed'").rowcount == 1
    db.close()
    (manifest,) = (root / "snapshots").glob("*.json")
    manifest.chmod(0o644)
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**raw, "ref": raw["ref"].replace(hidden, url), "source": url}))
    manifest.chmod(0o444)


def contents(root: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in root.rglob("*") if path.is_file())
