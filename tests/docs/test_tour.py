"""The README's tour works line by line on a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90


def read_tour(server_url: str, data_dir: Path) -> str:
    """The tour as one script, pointed at the test's server."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tour -->\n```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6, "the README has lost its tour"
    script = "\n".join(["set -euo pipefail", *blocks])
    return (
        script.replace("http://127.0.0.1:8000", server_url)
        .replace("var/operator.key", str(data_dir / "operator.key"))
        .replace(".venv/bin/python", sys.executable)
    )


def test_tour_of_the_readme_works_as_written(tmp_path: Path) -> None:
    """Each command succeeds and shows what the text around it says."""
    data_dir = tmp_path / "var"
    server = ServerProcess(data_dir)
    try:
        script = read_tour(server.start(), data_dir)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    finally:
        server.stop()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for shown in (
        '"status":"ready"',
        '"status":"blocked"',
        '"cancel_requested":false',
        '"result":{"words": 1200}',
        '"type":"task.completed"',
        "task.queued sum up",
        "Task cancelled",
        "Agent unregistered successfully",
    ):
        assert shown in done.stdout, f"{shown!r} is missing in:\n{done.stdout}"
