"""Patterns of the contracts mean the same to every reader, and take no longer than they may.

They are read by jsonschema-rs (here), Python (the referee, Connexion, Schemathesis), ECMAScript and
RE2 (clients): what only some of these know is refused.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest

import handlers
import hive
import server
from tests.contracts import our_contract

# The parser of `re` has no public face.
sre: Any = importlib.import_module("re._constants")
sre_parser: Any = importlib.import_module("re._parser")

SIZE = 10_000
SECONDS = 0.005
CONTRACT = our_contract()
STARTS = ["", "a", "A0", '"', "^", "task.", "tasks:", "k:"]
FILLS = ["a", "A", "0", "-", ".", "_", "a.", "a-", " ", '"', "\\", '\\"', "/", ":", "=", "é"]
ENDS = ["", "!", "\n", "\0", "\u202e", '"', ":"]
QUANTIFIERS = (sre.MAX_REPEAT, sre.MIN_REPEAT)


def patterns_of(node: Any) -> Iterator[str]:
    """Every pattern in a document."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("pattern", "x-key-pattern") and isinstance(value, str):
                yield value
            else:
                yield from patterns_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from patterns_of(value)


PATTERNS = sorted({*patterns_of(CONTRACT.openapi), *patterns_of(CONTRACT.asyncapi)})


def own_patterns() -> dict[str, re.Pattern[Any]]:
    """The patterns of the program itself, by module and name."""
    found: dict[str, re.Pattern[Any]] = {}
    for package in (hive, handlers, server):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.startswith(("server.demo", "server.mock")):
                continue  # They read no requests, and the mock needs an extra.
            for name, value in vars(importlib.import_module(info.name)).items():
                if isinstance(value, re.Pattern):
                    found[f"{info.name}.{name}"] = value
    return found


def nests(parsed: Any, *, inside: bool = False) -> bool:
    """Whether a repetition repeats a repetition. What is possessive is never tried twice."""
    for operator, argument in parsed:
        if operator in QUANTIFIERS:
            _, most, body = argument
            if inside and most > 1:
                return True
            if nests(body, inside=inside or most > 1):
                return True
        elif operator is sre.SUBPATTERN:
            if nests(argument[-1], inside=inside):
                return True
        elif operator is sre.BRANCH and any(nests(one, inside=inside) for one in argument[1]):
            return True
    return False


def slowest(check: Callable[[Any], object]) -> float:
    """The longest time that a hostile string takes, each at its best of three."""
    hostile = (
        (start + fill * SIZE)[:SIZE] + end for start in STARTS for fill in FILLS for end in ENDS
    )
    return max(best_of_three(check, text) for text in hostile)


def best_of_three(check: Callable[[Any], object], text: Any) -> float:
    """What it takes this thread, whatever else the machine does."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        check(text)
        took.append(time.thread_time() - began)
        if took[-1] < SECONDS:
            break
    return min(took)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_is_read_alike_everywhere(pattern: str) -> None:
    """No escape and no group that Python, ECMAScript, Rust and RE2 don't share; both ends tied."""
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    re.compile(pattern)
    jsonschema_rs.Draft4Validator(
        {"type": "string", "pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions()
    )
    escapes = set(re.findall(r"\\(.)", pattern))
    assert escapes <= {*"x.*[]\\/-+?()", '"'}, f"RE2 or ECMAScript has no {escapes}"
    assert "(?" not in pattern, "RE2 has no lookaround, ECMAScript no flags inside"
    assert not re.search(r"[*+?}][+?]", re.sub(r"\[[^]]*\]", "", pattern)), "nor possessive ones"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_takes_linear_time(pattern: str) -> None:
    """Within 5 ms on 10 kB, however hostile, to the server and to Python's readers."""
    assert not nests(sre_parser.parse(pattern)), "a quantifier inside a quantifier"
    schema = {"type": "string", "pattern": pattern}
    validator = jsonschema_rs.Draft4Validator(schema, pattern_options=jsonschema_rs.RegexOptions())
    assert slowest(validator.is_valid) < SECONDS
    assert slowest(re.compile(pattern).search) < SECONDS


def test_own_patterns_take_linear_time() -> None:
    """The program's own, too: headers, addresses, cursors, secrets in logs."""
    found = own_patterns()
    assert len(found) > 20
    assert [n for n, one in found.items() if nests(sre_parser.parse(one.pattern, one.flags))] == []
    slow = {}
    for name, pattern in found.items():
        for fill in ("a", "é", "A0", "-", ".", " ", "\\"):
            text: Any = (fill * SIZE)[:SIZE] + "!"
            if isinstance(pattern.pattern, bytes):
                text = text.encode()
            if (took := best_of_three(pattern.fullmatch, text)) > SECONDS:
                slow[name] = took
    assert slow == {}


def test_a_nested_quantifier_would_be_seen() -> None:
    """The linter can fail."""
    for pattern in ("^(a+)+$", "^((a|b*)c?)*$", "^(?:a{1,3}){2,}$"):
        assert nests(sre_parser.parse(pattern)), pattern
    for pattern in ("^(a|b)+$", "^a+(b+)?$", "^(?:a++)+$"):
        assert not nests(sre_parser.parse(pattern)), pattern
