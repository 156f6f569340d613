"""The benchmark of accuracy, run short: three processes and a real clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers import ROOT


@pytest.mark.more
def test_three_processes_agree_with_an_exact_reference() -> None:
    """No false allow, no false denial, and nobody gets more than the limit in any window."""
    program = [sys.executable, "-m", "benchmarks.limits", "--decisions", "120000"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| false allows | 0 |" in done.stdout
    assert "| false denials | 0 |" in done.stdout
    assert "above the limit | +0 |" in done.stdout
