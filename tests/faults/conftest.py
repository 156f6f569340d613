"""Servers for the fault tests: as users run them, each on a data directory of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiment import SETTINGS
from tests.servers import ServerProcess


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A line per request would bury the figures of a run."""
    caplog.set_level(logging.WARNING, logger="httpx")
    caplog.set_level(logging.INFO, logger="tests.faults")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that was not started yet; it is ended after the test."""
    process = ServerProcess(tmp_path / "var", **SETTINGS)
    yield process
    process.kill()
