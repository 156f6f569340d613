"""Compares the operations of two REST contracts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.compatibility.breaks import Break
from server.compatibility.releases import Release
from server.compatibility.schemas import Comparison, Direction
from server.contract import METHODS

_PARAMETER = re.compile(r"\{[^{}/]+\}")
_FIRST_REDIRECT = 300


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation of one release: `parameters` by place and name, resolved."""

    declared: Mapping[str, Any]
    parameters: Mapping[tuple[str, str], Mapping[str, Any]]
    public: bool


def operation_breaks(old: Release, new: Release) -> Iterator[Break]:
    """Every break of whoever calls the operations of the old contract."""
    comparison = Comparison(old, new)
    for name in _credentials(old) - _credentials(new):
        yield Break("credential-removed", name)
    after = dict(_operations(new))
    for key, before in _operations(old):
        place = f"{key[0].upper()} {key[1]}"
        if key not in after:
            yield Break("operation-removed", place)
            continue
        yield from _manner_breaks(before, after[key], place)
        yield from _parameter_breaks(comparison, before, after[key], place)
        yield from _body_breaks(comparison, old, new, before, after[key], place)
        yield from _answer_breaks(comparison, old, new, before, after[key], place)


def _credentials(release: Release) -> set[str]:
    return set(release.openapi.get("components", {}).get("securitySchemes", {}))


def _operations(release: Release) -> Iterator[tuple[tuple[str, str], _Operation]]:
    """By method and path; how a parameter of the path is called is no part of the path."""
    for path, item in release.openapi.get("paths", {}).items():
        for method in METHODS:
            if method in item:
                declared = item[method]
                parameters = {}
                for given in (*item.get("parameters", ()), *declared.get("parameters", ())):
                    one = release.follow(given)
                    parameters[one["in"], one["name"]] = one
                security = declared.get("security", release.openapi.get("security"))
                yield (
                    (method, _PARAMETER.sub("{}", path)),
                    _Operation(declared, parameters, security == []),
                )


def _manner_breaks(old: _Operation, new: _Operation, place: str) -> Iterator[Break]:
    """Who may call it, under what name, and what it promises."""
    before, after = old.declared, new.declared
    if before.get("operationId") != after.get("operationId"):
        renamed = f"{before.get('operationId')} -> {after.get('operationId')}"
        yield Break("operation-renamed", place, renamed)
    if old.public is not new.public:
        yield Break("access-changed", place)
    elif before.get("x-permission") != after.get("x-permission"):
        changed = f"{before.get('x-permission')} -> {after.get('x-permission')}"
        yield Break("permission-changed", place, changed)
    if after.get("x-ownership", "none") not in ("none", before.get("x-ownership", "none")):
        yield Break("ownership-tightened", place)
    if after.get("x-signed", False) and not before.get("x-signed", False):
        yield Break("signature-demanded", place)
    if before.get("x-idempotent", False) and not after.get("x-idempotent", False):
        yield Break("idempotency-removed", place)
    # Days in ISO 8601 sort as texts.
    if str(after.get("x-sunset", "9999")) < str(before.get("x-sunset", "")):
        yield Break("sunset-advanced", place)


def _parameter_breaks(
    comparison: Comparison, old: _Operation, new: _Operation, place: str
) -> Iterator[Break]:
    for key, before in old.parameters.items():
        at = f"{place} {key[0]} {key[1]}"
        after = new.parameters.get(key)
        if after is None:
            yield Break("parameter-removed", at)
            continue
        if after.get("required", False) and not before.get("required", False):
            yield Break("parameter-required", at)
        if any(before.get(name) != after.get(name) for name in ("style", "explode")):
            yield Break("parameter-encoding-changed", at)
        yield from comparison.compare(before["schema"], after["schema"], at, Direction.SENT)
    for key in new.parameters.keys() - old.parameters.keys():
        if new.parameters[key].get("required", False):
            yield Break("parameter-required", f"{place} {key[0]} {key[1]}")


def _body_breaks(
    comparison: Comparison,
    before: Release,
    after: Release,
    old: _Operation,
    new: _Operation,
    place: str,
) -> Iterator[Break]:
    took = before.follow(old.declared.get("requestBody"))
    takes = after.follow(new.declared.get("requestBody"))
    at = f"{place} body"
    if takes is not None and takes.get("required", False) and not (took or {}).get("required"):
        yield Break("body-required", at)
    if took is None:
        return
    if takes is None:
        yield Break("body-removed", at)
        return
    yield from _content_breaks(comparison, took, takes, at, Direction.SENT)


def _answer_breaks(
    comparison: Comparison,
    before: Release,
    after: Release,
    old: _Operation,
    new: _Operation,
    place: str,
) -> Iterator[Break]:
    gave, gives = old.declared["responses"], new.declared["responses"]
    for status, declared in gave.items():
        at = f"{place} {status}"
        if status not in gives:
            yield Break("answer-removed", at)
            continue
        answered, answers = before.follow(declared), after.follow(gives[status])
        headers = answers.get("headers", {})
        for name, header in answered.get("headers", {}).items():
            if name not in headers:
                yield Break("header-removed", f"{at} {name}")
                continue
            was, is_now = before.follow(header), after.follow(headers[name])
            yield from comparison.compare(
                was["schema"], is_now["schema"], f"{at} {name}", Direction.GIVEN
            )
        yield from _content_breaks(comparison, answered, answers, at, Direction.GIVEN)
    for status in gives.keys() - gave.keys():
        if int(status) < _FIRST_REDIRECT:
            yield Break("success-added", f"{place} {status}")


def _content_breaks(
    comparison: Comparison,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    place: str,
    direction: Direction,
) -> Iterator[Break]:
    contents = new.get("content", {})
    for media_type, media in old.get("content", {}).items():
        if media_type not in contents:
            yield Break("media-type-removed", f"{place} {media_type}")
        else:
            yield from comparison.compare(
                media.get("schema"), contents[media_type].get("schema"), place, direction
            )
