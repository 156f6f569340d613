"""What stops a start-up says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT

REFUSED = 2


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Not a traceback, but the variables to change and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {
            **os.environ,
            "AGENTZERO_DATA_DIR": str(tmp_path / "var"),
            "AGENTZERO_PORT": str(port),
        }
        done = subprocess.run(
            [sys.executable, "-m", "server.cli", "serve"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == REFUSED, done.stderr
    assert f"AGENTZERO_PORT: can't listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
