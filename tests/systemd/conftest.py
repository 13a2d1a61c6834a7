"""The marker of the tests that need root, systemd-nspawn and a kernel that lets them mount."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "systemd: boots systemd in a container; needs root and systemd-nspawn")
