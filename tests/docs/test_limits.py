"""docs/limits.md is what the command prints, and what it says agrees with the contracts.

A new limit is a row of `server/limit_table.py`, not of this test.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from typer.testing import CliRunner

from server import peers, reports_in_flight, subscriptions
from server.cli import app
from server.liveness import LINK_LIMITS, PeerLimits
from tests.contracts import our_interface

PAGE = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


def test_page_is_what_the_command_prints() -> None:
    """A limit that changes, and a new one, is in the page, or this fails."""
    printed = CliRunner().invoke(app, ["limits"])
    assert printed.exit_code == 0, printed.exception
    written = PAGE.read_text(encoding="utf-8")
    assert written == printed.stdout, "run: .venv/bin/agentzero limits > docs/limits.md"


def test_limits_of_sockets_are_those_of_the_contract() -> None:
    """`x-limits` in asyncapi.yaml has the numbers of the code."""
    declared = dict(our_interface().contract.asyncapi["x-limits"])
    sockets, link = declared.pop("events"), declared.pop("agent_link")
    kept = asdict(PeerLimits()) | {
        "connections_per_principal": peers.PER_PRINCIPAL,
        "exact_subscriptions": subscriptions.MAX_EXACT,
        "wildcard_subscriptions": subscriptions.MAX_WILDCARD,
    }
    linked = asdict(LINK_LIMITS) | {"reports_in_flight": reports_in_flight.MAX_REPORTS}
    assert {name: kept[name] for name in declared} == declared
    assert {name: kept.get(name, value) for name, value in sockets.items()} == sockets
    assert {name: linked[name] for name in link} == link
