"""Runs the commands of a page as one script, against a server of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers import ROOT, ServerProcess

SECONDS = 90


def run_page(page: str, marker: str, data_dir: Path, *, at_least: int) -> str:
    """What the bash blocks behind `<!-- marker -->` print; each command has to succeed."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(rf"<!-- {marker} -->\n```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= at_least, f"{page} has lost its commands"
    server = ServerProcess(data_dir)
    try:
        script = "\n".join(["set -euo pipefail", *blocks])
        script = script.replace("http://127.0.0.1:8000", server.start())
        script = script.replace("var/operator.key", str(data_dir / "operator.key"))
        script = script.replace(".venv/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    finally:
        server.stop()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
