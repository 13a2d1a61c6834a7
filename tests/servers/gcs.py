"""Google Cloud Storage by gcp-storage-emulator, in memory. It asks nobody for credentials and ignores generations."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request

from tests.servers.process import BIN, ServerProcess


class GcsEmulator(ServerProcess):
    def __init__(self) -> None:
        super().__init__()
        self._buckets: set[str] = set()

    def command(self) -> list[str]:
        program = str(BIN / "gcp-storage-emulator")
        return [program, "start", "--host", "127.0.0.1", "--port", str(self.port), "--in-memory"]

    def bucket(self, name: str) -> str:
        if name not in self._buckets:
            body = json.dumps({"name": name}).encode()
            self._post("/storage/v1/b?project=test", body, "application/json")
            self._buckets.add(name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.bucket(bucket)
        # The emulator loses its footing over an empty "media" upload, so this is a multipart one.
        edge = b"--edge-of-a-part"
        meta = b"\r\nContent-Type: application/json\r\n\r\n" + json.dumps({"name": key}).encode() + b"\r\n"
        kind = b"\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        body = edge + meta + edge + kind + base64.b64encode(data) + b"\r\n" + edge + b"--\r\n"
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        self._post(path, body, 'multipart/related; boundary="edge-of-a-part"')

    def delete(self, bucket: str, key: str) -> None:
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}"
        urllib.request.urlopen(urllib.request.Request(self.endpoint + path, method="DELETE"), timeout=10).close()

    def _post(self, path: str, body: bytes, kind: str) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        request = urllib.request.Request(self.endpoint + path, data=body, headers=headers, method="POST")
        urllib.request.urlopen(request, timeout=10).close()
