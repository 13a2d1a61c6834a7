"""S3 by rclone, on a folder: fast enough to time against.

It answers ranges with 200 and a right Content-Range, ignores If-Match and has no versions. For its ETags it hashes
the whole object at every request, each range included: for large files take `etags=False`, and there are none.
Files may also be put into `folder/<bucket>/` directly.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from tests.servers.moto import S3Server
from tests.servers.process import BIN


class RcloneS3(S3Server):
    def __init__(
        self,
        folder: Path | None = None,
        *,
        auth: bool = True,
        etags: bool = True,
        listing_seconds: int = 0,
        mib_per_second: int = 0,
    ) -> None:
        """0 MiB per second: as many as it can."""
        super().__init__()
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="rclone-"))
        self._auth, self._etags, self._listing_seconds = auth, etags, listing_seconds
        self._mib_per_second = mib_per_second

    def command(self) -> list[str]:
        program = str(BIN / "rclone")
        # With no directory cache, files that appear in the folder are objects at once, and each request lists it again.
        options = [
            "--addr",
            f"127.0.0.1:{self.port}",
            "--dir-cache-time",
            f"{self._listing_seconds}s",
            "--config",
            os.devnull,
        ]
        if self._mib_per_second:
            options += ["--bwlimit", f"{self._mib_per_second}M"]
        if not self._etags:
            options += ["--etag-hash", ""]
        if self._auth:
            options += ["--auth-key", f"{self.access_key},{self.secret_key}"]
        return [program, "serve", "s3", *options, str(self.folder)]

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Straight into the folder, in one rename; much faster than the protocol."""
        path = self.folder / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / bucket / f".{os.getpid()}.partial"
        fresh.write_bytes(data)
        fresh.rename(path)

    def bucket(self, name: str, *, versioned: bool = False) -> str:
        if versioned:
            raise ValueError("rclone has no versions")
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return name

    def delete(self, bucket: str, key: str) -> None:
        (self.folder / bucket / key).unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)
