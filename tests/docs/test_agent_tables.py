"""The tables of docs/agents.md are made of the code."""

from __future__ import annotations

from itertools import product

import yaml

from hive.agents import CONTROLS_KEPT, ENFORCED, AgentAction, DesiredState, status_of
from server.agent_messages import MOST_UNACKNOWLEDGED
from server.reports import ACKNOWLEDGE, ENDING, REPORTS
from server.resources import openapi_path
from tests.docs.test_tables import DOCS, read_table

PAGE = (DOCS / "agents.md").read_text("utf-8")


def test_table_of_statuses_is_what_they_follow_from() -> None:
    """Each wish, sign of life and number of leases leads to the status of its row."""
    rows = [
        [cell.strip(" `") for cell in row.split("|")[1:-1]]
        for row in read_table("agents.md", "statuses").splitlines()[2:]
    ]
    met: set[int] = set()
    for desired, online, running in product(DesiredState, (True, False), (0, 1)):
        said = [str(desired), "yes" if online else "no", "some" if running else "none"]
        fits = [n for n, row in enumerate(rows) if _fits(row[:3], said)]
        assert len(fits) == 1, f"{said} is in {len(fits)} rows"
        assert rows[fits[0]][3] == status_of(desired, online=online, running=running)
        met.update(fits)
    assert met == set(range(len(rows)))


def test_table_of_reports_names_their_twins() -> None:
    """Each frame, the operation that it enters, and whether the lease is over after it."""
    contract = yaml.safe_load(openapi_path().read_text("utf-8"))
    paths = {
        operation["operationId"]: f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, item in contract["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    twins = {kind: operation for kind, (operation, _) in REPORTS.items()}
    rows = ["| frame | over REST | ends the lease |", "|---|---|---|"]
    rows += [
        f"| `{kind}` | `{paths[operation]}` | {'yes' if kind in ENDING else 'no'} |"
        for kind, operation in {**twins, ACKNOWLEDGE: "acknowledge_message"}.items()
    ]
    table = "\n".join(rows) + "\n"
    assert read_table("agents.md", "reports") == table, f"write this into docs/agents.md:\n{table}"


def test_table_of_actions_says_who_carries_them_out() -> None:
    """The server at once, or the process when it takes the request."""
    rows = [row.split("|")[1:4] for row in read_table("agents.md", "actions").splitlines()[2:]]
    assert [row[0].strip(" `") for row in rows] == [str(action) for action in AgentAction]
    for action, row in zip(AgentAction, rows, strict=True):
        desired = ENFORCED.get(action)
        who = f"the hive: wanted is `{desired}`" if desired else "the process, when it takes it"
        event = "agent.status_changed" if desired else "agent.control_requested"
        assert [cell.strip() for cell in row[1:]] == [who, f"`{event}`"]


def test_bounds_are_those_of_the_code() -> None:
    """Of requests and of messages."""
    assert f"At most {CONTROLS_KEPT} requests wait" in PAGE
    assert f"at most {MOST_UNACKNOWLEDGED} are out" in PAGE


def _fits(row: list[str], said: list[str]) -> bool:
    return all(cell in ("any", word) for cell, word in zip(row, said, strict=True))
