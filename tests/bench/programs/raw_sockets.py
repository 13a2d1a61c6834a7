"""What Python can do at most: four sockets, `recv_into` one buffer, `pwrite`. Nothing is hashed, synced or retried.

`python raw_sockets.py ENDPOINT BUCKET PREFIX TARGET NAME:SIZE…`; the keys come from the environment.
"""

import hashlib
import hmac
import os
import queue
import socket
import sys
import threading
from datetime import UTC, datetime
from urllib.parse import urlsplit

THREADS, PIECE, SLICE = 4, 16 << 20, 1 << 20
BODY = "UNSIGNED-PAYLOAD"

endpoint, bucket, prefix, target, *files = sys.argv[1:]
address = urlsplit(endpoint)
host = address.netloc
left: queue.SimpleQueue[tuple[str, int, int, int]] = queue.SimpleQueue()
failures: list[BaseException] = []


def signed(path: str) -> str:
    """The header lines of Signature Version 4 for a GET."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope, names = f"{now[:8]}/us-east-1/s3/aws4_request", "host;x-amz-content-sha256;x-amz-date"
    request = f"GET\n{path}\n\nhost:{host}\nx-amz-content-sha256:{BODY}\nx-amz-date:{now}\n\n{names}\n{BODY}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
    return (
        f"Authorization: AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={key.hex()}\r\n"
        f"x-amz-date: {now}\r\nx-amz-content-sha256: {BODY}\r\n"
    )


def ask(connection: socket.socket, path: str, offset: int, length: int, view: memoryview) -> memoryview:
    """Ask for a range; what came of its body with the head."""
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{signed(path)}Range: bytes={offset}-{offset + length - 1}\r\n\r\n"
    connection.sendall(head.encode())
    came = 0
    while (end := bytes(view[:came]).find(b"\r\n\r\n")) < 0:
        count = connection.recv_into(view[came : came + 8192])
        if not count:
            raise ConnectionError("the server closed the connection")
        came += count
    if not bytes(view[:12]).startswith(b"HTTP/1.1 20"):
        raise ConnectionError(bytes(view[:200]).decode(errors="replace"))
    return view[end + 4 : came]


def work() -> None:
    view = memoryview(bytearray(SLICE))
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        while True:
            try:
                name, fd, offset, length = left.get_nowait()
            except queue.Empty:
                return
            data = ask(connection, f"/{bucket}/{prefix}/{name}", offset, length, view)
            while length:
                os.pwrite(fd, data, offset)
                offset, length = offset + len(data), length - len(data)
                if length:
                    count = connection.recv_into(view[: min(SLICE, length)])
                    if not count:
                        raise ConnectionError("the body ended early")
                    data = view[:count]


def guarded() -> None:
    try:
        work()
    except BaseException as error:
        failures.append(error)


for text in files:
    name, _, size = text.rpartition(":")
    fd = os.open(os.path.join(target, name), os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(fd, 0, int(size))
    for start in range(0, int(size), PIECE):
        left.put((name, fd, start, min(PIECE, int(size) - start)))
threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failures:
    raise failures[0]
