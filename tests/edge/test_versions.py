"""Deprecated operations: what the contract has to say of them, and what callers are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from handlers.context import Reply
from hive.permissions import ROLE_PERMISSIONS, Principal, Role
from server.answers import join_fields
from server.binding import BindingError, BoundOperation, bind
from server.contract import Contract
from server.pipeline import Call
from server.versions import MOST_NOTED, Versions
from tests.contract.running import FIXTURES, HANDLERS, make_small_app, serve

SMALL = (FIXTURES / "openapi.yaml").read_text("utf-8")
OPERATION = "      operationId: list_things\n"
ANNOUNCED = """
      deprecated: true
      x-deprecated-at: '2020-01-01'
      x-sunset: '2021-01-01'
      x-successor: get_open
"""


def contract(folder: Path, announced: str = ANNOUNCED) -> Contract:
    """The small contract with an announcement on `list_things`."""
    path = folder / "openapi.yaml"
    path.write_text(SMALL.replace(OPERATION, OPERATION + announced.lstrip("\n")))
    return Contract.load(path)


def without(line: str) -> str:
    """The announcement without one of its lines."""
    return "".join(one for one in ANNOUNCED.splitlines(keepends=True) if line not in one)


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        (without("x-deprecated-at"), "deprecated without x-deprecated-at"),
        (without("x-sunset"), "deprecated without x-sunset"),
        (without("x-successor"), "deprecated without x-successor"),
        (without("deprecated: true"), "x-sunset and not deprecated"),
        (ANNOUNCED.replace("2021-01-01", "2019-12-31"), "less than 180 days"),
        (ANNOUNCED.replace("2021-01-01", "2020-06-28"), "less than 180 days"),
        (ANNOUNCED.replace("2021-01-01", "next year"), "next year is no day"),
        (ANNOUNCED.replace("get_open", "get_opne"), "x-successor get_opne is no operation"),
        (ANNOUNCED.replace("get_open", "list_things"), "list_things is deprecated itself"),
        (ANNOUNCED.replace("get_open", "get_thing"), "can't be filled from its own"),
    ],
)
def test_announcement_that_is_not_whole_stops_startup(
    tmp_path: Path, announced: str, said: str
) -> None:
    """Days, notice and successor are checked before anything is served."""
    with pytest.raises(BindingError, match=f"list_things: .*{said}"):
        bind(contract(tmp_path, announced), HANDLERS)


def test_shortest_notice_is_enough(tmp_path: Path) -> None:
    """180 days after the deprecation."""
    bind(contract(tmp_path, ANNOUNCED.replace("2021-01-01", "2020-06-29")), HANDLERS)


async def test_operation_answers_after_its_sunset(tmp_path: Path) -> None:
    """Nothing is switched off by the clock, and the links of a page are joined to the successor's.

    The sunset of this one is years ago.
    """
    operations = bind(contract(tmp_path), HANDLERS)

    async def list_things(_context: Any, **_arguments: Any) -> Reply:
        return Reply({}, headers={"Link": '</things?cursor=b>; rel="next"'})

    operations["list_things"] = BoundOperation(operations["list_things"].operation, list_things)
    async with (
        serve(make_small_app(operations)) as base,
        httpx.AsyncClient(base_url=base, headers={"Authorization": "Bearer everything"}) as client,
    ):
        response = await client.get("/things")
    assert response.status_code == 200
    assert response.headers["Sunset"] == "Fri, 01 Jan 2021 00:00:00 GMT"
    assert response.headers["Deprecation"] == "@1577836800"
    assert {rel: one["url"] for rel, one in response.links.items()} == {
        "next": "/things?cursor=b",
        "successor-version": "/open",
    }


def test_only_lists_are_joined() -> None:
    """Of other fields the second one counts."""
    joined = join_fields(
        {"Link": "<a>", "X": "1", "Y": "1"}, {"Link": "<b>", "X": "2", "Vary": "z"}
    )
    assert joined == {"Link": "<a>, <b>", "X": "2", "Y": "1", "Vary": "z"}


class Clock:
    """A time that stands still."""

    now = 3600.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """An hour after the epoch."""
    return Clock()


@pytest.fixture
def note(tmp_path: Path, clock: Clock) -> Callable[..., list[dict[str, Any]]]:
    """Calls an operation as principals; what is logged of it."""
    known = contract(tmp_path).operations
    versions = Versions(known.values(), clock)

    def call(*principals: str, operation: str = "list_things") -> list[dict[str, Any]]:
        with capture_logs() as lines:
            for name in principals:
                who = Principal(name, name, Role.USER, ROLE_PERMISSIONS[Role.USER])
                agent = f"Client azk_{'s' * 32}"
                versions.note(
                    Call("c", "r", "rest", "::1", agent, operation=known[operation], principal=who)
                )
        return [dict(line) for line in lines]

    return call


def test_users_of_deprecated_operations_are_in_the_log(
    note: Callable[..., list[dict[str, Any]]], clock: Clock
) -> None:
    """One line per principal, operation and hour; none of other operations."""
    first, second = note("usr_1", "usr_1", "usr_2", "usr_1")
    assert (first["principal"], second["principal"]) == ("usr_1", "usr_2")
    assert first["operation"] == "list_things"
    assert (first["successor"], first["sunset"]) == ("get_open", "2021-01-01")
    assert first["client"].startswith("Client ")
    assert "sss" not in first["client"]
    clock.now += 3599
    assert note("usr_1") == []
    clock.now += 1
    assert len(note("usr_1")) == 1
    assert note("usr_9", operation="get_open") == []


def test_log_of_deprecated_operations_is_bounded(
    note: Callable[..., list[dict[str, Any]]],
) -> None:
    """However many principals there are."""
    assert len(note(*(f"usr_{number}" for number in range(MOST_NOTED + 10)))) == MOST_NOTED
