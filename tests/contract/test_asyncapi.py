"""asyncapi.yaml agrees with itself and with the code."""

from __future__ import annotations

from typing import Any

import pytest

from hive.events import EVENT_TYPES
from hive.permissions import PERMISSIONS
from server import connection, peers, subscriptions
from server.agent_link import AgentLink
from server.closing import CloseCode, ErrorCode
from server.connection import Connection
from server.contract import Contract
from server.handshake import SUBPROTOCOL
from server.liveness import LINK_LIMITS, PeerLimits
from server.peer import Peer
from server.reports import REPORTS
from server.reports_in_flight import MAX_REPORTS
from tests.contracts import our_contract
from tests.realtime.client import documents, messages_of, validator

DOCUMENT = documents()["asyncapi.yaml"]
MESSAGES = DOCUMENT["components"]["messages"]
EXAMPLES = [
    (name, example["name"], example["payload"])
    for name, message in MESSAGES.items()
    for example in message["examples"]
]


@pytest.fixture(scope="module")
def contract() -> Contract:
    """Both contracts as the server reads them."""
    return our_contract()


@pytest.mark.parametrize(("message", "example", "payload"), EXAMPLES)
def test_examples_are_valid(contract: Contract, message: str, example: str, payload: Any) -> None:
    """For the server's validators and for another implementation."""
    assert contract.messages[message].payload.errors(payload) == []
    assert [error.message for error in validator(message).iter_errors(payload)] == []


def test_every_message_has_an_example_and_a_summary() -> None:
    """A message that nobody can imagine is not documented."""
    assert {name for name, message in MESSAGES.items() if not message.get("summary")} == set()
    assert {name for name, message in MESSAGES.items() if not message.get("examples")} == set()


def test_a_message_is_called_like_its_type() -> None:
    """What the server looks validators up by; events are called after their noun."""
    for name, message in MESSAGES.items():
        properties = message["payload"].get("properties")
        if properties is not None:
            assert properties["type"]["enum"] == [name]


def test_event_types_are_those_of_the_hive() -> None:
    """Each type in the message of its noun, and no other."""
    declared: list[str] = []
    for name, message in MESSAGES.items():
        if name.endswith("_event"):
            types = message["payload"]["allOf"][1]["properties"]["type"]["enum"]
            assert {event_type.partition(".")[0] for event_type in types} == {name[:-6]}
            declared += types
    assert declared == sorted(declared, key=declared.index)
    assert set(declared) == set(EVENT_TYPES)


def test_close_codes_are_those_of_the_code() -> None:
    """Both closed vocabularies agree, and each code says what a client does."""
    codes = DOCUMENT["x-close-codes"]
    assert {int(code) for code in codes} == set(CloseCode)
    assert all(entry.keys() == {"meaning", "client"} for entry in codes.values())


def test_error_codes_are_those_of_the_code() -> None:
    """And each is explained."""
    schema = DOCUMENT["components"]["schemas"]["ErrorCode"]
    assert set(schema["enum"]) == set(ErrorCode)
    assert all(f"`{code}`" in schema["description"] for code in ErrorCode)


@pytest.mark.parametrize(("channel", "peer"), [("events", Connection), ("agent_link", AgentLink)])
def test_what_is_received_is_handled(channel: str, peer: type[Peer]) -> None:
    """The server handles exactly the messages that the channel receives, under its permission."""
    assert set(peer.handlers) == messages_of(channel, "receive")
    assert peer.permission == DOCUMENT["channels"][channel]["x-permission"]
    assert peer.permission in PERMISSIONS


@pytest.mark.parametrize("channel", ["events", "agent_link"])
def test_every_message_of_a_channel_is_in_an_operation(channel: str) -> None:
    """Nothing is carried that nobody sends."""
    carried = set(DOCUMENT["channels"][channel]["messages"])
    assert carried == messages_of(channel, "receive") | messages_of(channel, "send")


def test_reports_have_a_twin_in_rest(contract: Contract) -> None:
    """Their bodies hold what the operation's body can hold."""
    for kind, (operation_id, body_of) in REPORTS.items():
        operation = contract.operations[operation_id]
        assert operation.body is not None
        for example in contract.messages[kind].examples:
            assert operation.body.schemas["application/json"].errors(body_of(example)) == []


def test_limits_are_those_of_the_code() -> None:
    """x-limits and x-heartbeat are what the server does."""
    limits, client = DOCUMENT["x-limits"], PeerLimits()
    heartbeat = DOCUMENT["x-heartbeat"]
    assert heartbeat["interval_seconds"] == client.heartbeat_seconds
    assert heartbeat["jitter"] == client.heartbeat_jitter
    assert heartbeat["answer_seconds"] == client.answer_seconds
    assert limits["connect_seconds"] == client.connect_seconds
    assert limits["hello_seconds"] == client.hello_seconds
    assert limits["stuck_seconds"] == client.stuck_seconds
    assert limits["buffered_bytes"] == client.buffered_bytes
    assert limits["connections_per_principal"] == peers.PER_PRINCIPAL
    assert limits["events"] == {
        "frame_bytes": client.frame_bytes,
        "frames_per_second": client.frames_per_second,
        "frames_burst": client.frames_burst,
        "exact_subscriptions": subscriptions.MAX_EXACT,
        "wildcard_subscriptions": subscriptions.MAX_WILDCARD,
        "bookmark_seconds": connection.BOOKMARK_SECONDS,
        "bookmark_events": connection.BOOKMARK_EVENTS,
    }
    assert limits["agent_link"] == {
        "frame_bytes": LINK_LIMITS.frame_bytes,
        "frames_per_second": LINK_LIMITS.frames_per_second,
        "frames_burst": LINK_LIMITS.frames_burst,
        "buffered_bytes": LINK_LIMITS.buffered_bytes,
        "reports_in_flight": MAX_REPORTS,
    }
    assert DOCUMENT["x-subprotocol"] == SUBPROTOCOL


def test_info_is_that_of_the_rest_contract() -> None:
    """Licence, contact and terms are the same."""
    rest = documents()["openapi.yaml"]["info"]
    for member in ("version", "license", "contact", "termsOfService"):
        assert DOCUMENT["info"][member] == rest[member]
