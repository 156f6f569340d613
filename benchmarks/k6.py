"""Runs a script for k6, the load generator that the environment has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_k6(script: Path, environment: Mapping[str, str]) -> str:
    """Run the script with these variables; what it said. AssertionError when it fails."""
    k6 = Path(sys.executable).with_name("k6")
    done = subprocess.run(  # noqa: S603 - the program that this environment has
        [str(k6), "run", "--quiet", "--no-usage-report", str(script)],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"k6 ended with {done.returncode}:\n{done.stderr[-4_000:]}"
    return done.stderr[-4_000:]
