"""docs/idempotency.md: its commands run, and it names the operations of the contract."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.contracts import our_contract
from tests.docs.scripts import run_page
from tests.servers import ROOT

PAGE = "docs/idempotency.md"


def test_the_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repetition gets the same answer, and another request is refused."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    monkeypatch.chdir(tmp_path)
    said = run_page(PAGE, "idempotency: commands", tmp_path / "var", at_least=1)
    assert said.lower().split() == ["idempotency-replayed:", "true", "idempotency-key-reused"]


def test_the_guide_names_the_operations() -> None:
    """All that make something, and no other."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (named,) = re.findall(r"`x-idempotent` in the contract: (.*?)\. Other", text, re.DOTALL)
    operations = our_contract().operations.values()
    assert set(re.findall(r"`(\w+)`", named)) == {
        one.operation_id for one in operations if one.is_idempotent
    }
