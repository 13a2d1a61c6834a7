"""What tests of the daemon share: each module has an `s3` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import CountingProxy, RcloneS3


@pytest.fixture
def proxy(s3: RcloneS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as running:
        yield running
