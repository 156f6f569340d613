"""The commands of docs/authentication.md work as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers import ServerProcess

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "authentication.md"
SECONDS = 90


def read_script(server_url: str, data_dir: Path) -> str:
    """The blocks of the guide as one script, pointed at the test's server."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- run -->\n```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 10, "the guide has lost its commands"
    script = "\n".join(["set -euo pipefail", *blocks])
    return (
        script.replace("http://127.0.0.1:8000", server_url)
        .replace("var/operator.key", str(data_dir / "operator.key"))
        .replace(".venv/bin/python", sys.executable)
    )


def test_commands_of_the_guide_work_as_written(tmp_path: Path) -> None:
    """Each command succeeds and shows what the text around it says."""
    data_dir = tmp_path / "var"
    server = ServerProcess(data_dir)
    try:
        script = read_script(server.start(), data_dir)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    finally:
        server.stop()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for shown in (
        '"username":"ann"',
        '"device":"laptop"',
        '"message":"Password changed"',
        '"token_type":"bearer"',
        '"status":"active"',
        '"type":"pong"',
        '"kty":"OKP"',
        '"admin_allowlist":["127.0.0.0/8"]',
        '"operation":"login"',
        '"message":"User deleted"',
    ):
        assert shown in done.stdout, f"{shown!r} is missing in:\n{done.stdout}"
