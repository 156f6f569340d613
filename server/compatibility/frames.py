"""Compares the channels and messages of two WebSocket contracts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.compatibility.breaks import Break
from server.compatibility.releases import Release
from server.compatibility.schemas import Comparison, Direction

# More seconds or events between two bookmarks are the server's to choose.
_NO_PROMISES = ("bookmark_",)


def frame_breaks(old: Release, new: Release) -> Iterator[Break]:
    """Every break of whoever connects by the old contract."""
    comparison = Comparison(old, new)
    for code in old.asyncapi.get("x-close-codes", {}).keys() - _close_codes(new):
        yield Break("close-code-removed", code)
    if old.asyncapi.get("x-subprotocol") != new.asyncapi.get("x-subprotocol"):
        yield Break("subprotocol-changed", str(old.asyncapi.get("x-subprotocol")))
    for name in ("x-limits", "x-heartbeat"):
        yield from _limit_breaks(old.asyncapi.get(name, {}), new.asyncapi.get(name, {}), name)
    after = new.asyncapi.get("channels", {})
    for name, channel in old.asyncapi.get("channels", {}).items():
        place = f"channel {name}"
        if name not in after:
            yield Break("channel-removed", place)
            continue
        yield from _channel_breaks(comparison, channel, after[name], place)
        directions = _directions(old, name)
        messages = after[name].get("messages", {})
        for key, message in channel.get("messages", {}).items():
            at = f"{place} message {key}"
            if key not in messages:
                yield Break("message-removed", at)
                continue
            was, is_now = old.follow(message), new.follow(messages[key])
            for direction in directions.get(key, set(Direction)):
                yield from comparison.compare(was["payload"], is_now["payload"], at, direction)


def _close_codes(release: Release) -> set[str]:
    return set(release.asyncapi.get("x-close-codes", {}))


def _channel_breaks(
    comparison: Comparison, old: Mapping[str, Any], new: Mapping[str, Any], place: str
) -> Iterator[Break]:
    if old.get("address") != new.get("address"):
        yield Break("address-changed", place, f"{old.get('address')} -> {new.get('address')}")
    if old.get("x-permission") != new.get("x-permission"):
        yield Break("permission-changed", place)
    yield from comparison.compare(_query(old), _query(new), f"{place} query", Direction.SENT)


def _query(channel: Mapping[str, Any]) -> Any:
    return channel.get("bindings", {}).get("ws", {}).get("query", {})


def _directions(release: Release, channel: str) -> dict[str, set[Direction]]:
    """Who sends each message of the channel. The contract speaks of what the server does."""
    found: dict[str, set[Direction]] = {}
    for operation in release.asyncapi.get("operations", {}).values():
        receives = operation.get("action") == "receive"
        asked, answered = (
            (Direction.SENT, Direction.GIVEN) if receives else (Direction.GIVEN, Direction.SENT)
        )
        for messages, direction in (
            (operation.get("messages", ()), asked),
            (operation.get("reply", {}).get("messages", ()), answered),
        ):
            for one in messages:
                at, _, key = one["$ref"].rpartition("/messages/")
                if at.endswith(f"/channels/{channel}"):
                    found.setdefault(key, set()).add(direction)
    return found


def _limit_breaks(old: Any, new: Any, place: str) -> Iterator[Break]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name, limit in old.items():
            if name in new and not name.startswith(_NO_PROMISES):
                yield from _limit_breaks(limit, new[name], f"{place}/{name}")
    elif isinstance(old, int | float) and isinstance(new, int | float) and new < old:
        yield Break("limit-lowered", place, f"{old} -> {new}")
