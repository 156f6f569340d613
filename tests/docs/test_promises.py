"""The pages of the engine say what is guaranteed, and what is not, in a sentence each."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_tables import DOCS

LONGEST = 400


@pytest.mark.parametrize("page", ["tasks.md", "agents.md", "clustering.md"])
@pytest.mark.parametrize("title", ["Guarantees", "Not guaranteed"])
def test_page_says_what_is_guaranteed_and_what_is_not(page: str, title: str) -> None:
    """A name in bold, and few words behind it."""
    text = (DOCS / page).read_text("utf-8")
    (section,) = re.findall(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    promises = re.findall(r"^- (.*?)(?=^- |\Z)", section, re.MULTILINE | re.DOTALL)
    assert len(promises) > 3
    assert all(each.startswith("**") for each in promises)
    assert [each for each in promises if len(each) > LONGEST] == []
