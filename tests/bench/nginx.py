"""nginx on a folder: an HTTP server that costs next to nothing, in the place of a content network."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from tests.servers.process import ServerProcess

_CONFIG = """
{user}
daemon off;
worker_processes 2;
pid {scratch}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def nginx_path() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx(ServerProcess):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory(prefix="cached-nginx-")
        scratch = Path(self._scratch.name)
        # Started by root its workers would be another user, who may not enter the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        self._config = scratch / "nginx.conf"
        self._config.write_text(_CONFIG.format(user=user, scratch=scratch, port=self.port, folder=folder))

    def command(self) -> list[str]:
        return [str(nginx_path()), "-e", "stderr", "-p", self._scratch.name, "-c", str(self._config)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._scratch.cleanup()
