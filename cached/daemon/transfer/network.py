"""What all disks of this node share of the network."""

from __future__ import annotations

from cached.config import Config
from cached.daemon.transfer.download import Batch
from cached.daemon.transfer.open_files import OpenFiles
from cached.daemon.transfer.scheduler import Streams
from cached.daemon.transfer.users import Users


class Network:
    """The state that all fetchers of this node share: connections, open files, and the count of bytes fetched."""

    def __init__(self, config: Config) -> None:
        users = Users()
        self.streams = Streams(config.min_connections, config.connections, config.retries, users)
        self.files = OpenFiles(config.connections, users)
        self.fetched_bytes = 0

    def paused(self, batch: Batch) -> bool:
        """Return True if every running download of the batch waits for an origin that requested a pause."""
        return bool(batch.running) and all(self.streams.paused(download.origin) for download in batch.running)
