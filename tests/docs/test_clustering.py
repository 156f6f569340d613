"""What docs/clustering.md says of duties and of times is what the code does."""

from __future__ import annotations

import re

from hive.nodes import SEEN_SECONDS
from server.bootstrap.serving import LEAVING_SECONDS
from server.duties import LEASE_SECONDS, RETRY_SECONDS
from server.hub import RING_EVENTS
from server.tokens import LEEWAY_SECONDS
from server.workers import MAX_ENDS
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "clustering.md").read_text("utf-8")


def test_the_table_of_duties_names_all() -> None:
    """Every module of a duty has its name in it."""
    (table,) = re.findall(r"<!-- table: duties -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    named = set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE))
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "server").glob("*.py"))
    duties = set(re.findall(r'^DUTY(?:: Final)? = "(.+)"$', code, re.MULTILINE))
    assert named == duties


def test_the_times_are_those_of_the_code() -> None:
    """Leases of duties, the moment of leaving, the leeway of tokens, the ends of a worker."""
    assert f"a lease of {LEASE_SECONDS} s" in PAGE
    assert f"renews it every {LEASE_SECONDS / 3} s" in PAGE
    assert f"ask every {RETRY_SECONDS} s" in PAGE
    assert f"For {LEAVING_SECONDS} s the node still accepts" in PAGE
    assert f"more than {LEEWAY_SECONDS} s ahead" in PAGE
    assert MAX_ENDS == 5, "docs: five ends within a minute"
    assert f"the list of nodes within {SEEN_SECONDS:g} s" in PAGE
    assert LEASE_SECONDS + 2 * RETRY_SECONDS < 6, "docs: in new hands within 6 s"
    assert f"the newest {RING_EVENTS:,} events" in PAGE
