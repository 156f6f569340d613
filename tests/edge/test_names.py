"""Names can be read by people: nothing in them is invisible, breaks a line or turns text around.

Free text is another matter: it is kept as it came (`tests/api/test_text.py`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.contract import ContractMismatch, Operation
from tests.contract.hostile import body_slots, example_body, put
from tests.contracts import our_contract

CONTRACT = our_contract()
CONTROLS = [*range(0x20), 0x7F, *range(0x80, 0xA0)]
BREAKS = [0x2028, 0x2029]
TURNS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
UNREADABLE = [chr(code) for code in (*CONTROLS, *BREAKS, *TURNS)]
READABLE = [
    "é",
    "Ω",
    "日本語",
    "שלום",
    "سلام",
    "नमस्ते",
    "👩‍🚀",
    "a b",
    "<script>",
    "'; --",
    "${x}",
    "\ufffd",
]
# What people write for people, and what is compared and never shown.
TEXT = {
    ("create_task", "description"),
    ("renew_lease", "progress/message"),
    ("append_lease_logs", "lines/0/message"),
    ("fail_lease", "error/message"),
    ("login", "username"),
    ("create_task", "dependencies/0"),
    ("create_task", "sticky/task_id"),
    ("update_task", "description"),
    ("create_schedule", "description"),
    ("update_schedule", "description"),
    ("refresh", "refresh_token"),
    ("logout", "refresh_token"),
}
# Where else a task stands.
TASKS = {"create_tasks": "tasks/0", "create_schedule": "task", "update_schedule": "task"}
TEXT |= {
    (operation_id, f"{place}/{slot}")
    for operation_id, place in TASKS.items()
    for named, slot in TEXT
    if named == "create_task"
}
Slot = tuple[str | int, ...]


def names() -> list[Any]:
    """Every place in a body where text can stand and no other rule says what."""
    found = []
    for operation in CONTRACT.operations.values():
        if operation.body is None:
            continue
        for slot, schema in body_slots(CONTRACT, operation):
            is_free = schema.get("type") == "string" and not {"enum", "format"} & schema.keys()
            where = "/".join(map(str, slot))
            if is_free and (operation.operation_id, where) not in TEXT:
                found.append(pytest.param(operation, slot, id=f"{operation.operation_id}-{where}"))
    return found


def read(operation: Operation, slot: Slot, value: str) -> str | None:
    """Why the contract refuses this value there; None when it does not."""
    body = example_body(operation)
    put(body, slot, value)
    try:
        operation.read_body(json.dumps(body).encode())
    except ContractMismatch as error:
        return str(error.errors)
    return None


@pytest.mark.parametrize(("operation", "slot"), names())
def test_no_name_has_what_nobody_can_read(operation: Operation, slot: Slot) -> None:
    """At the start, inside, and at the end; the refusal says why and quotes nothing."""
    for character in UNREADABLE:
        for value in (f"{character}abc", f"a{character}b", f"abc{character}"):
            why = read(operation, slot, value)
            assert why is not None, f"{value!r} is taken"
            assert not set(why) & set(UNREADABLE)


def test_keys_of_labels_are_words() -> None:
    """They become parts of filters."""
    for operation_id in ("create_task", "register_agent"):
        operation = CONTRACT.operations[operation_id]
        for character in UNREADABLE:
            assert read(operation, ("labels", f"a{character}b"), "x") is not None


@pytest.mark.parametrize("name", READABLE)
def test_names_are_in_any_language(name: str) -> None:
    """Joiners and marks belong to them; what is dangerous elsewhere is plain text here."""
    assert read(CONTRACT.operations["create_task"], ("name",), name) is None
    assert read(CONTRACT.operations["create_task"], ("labels", "key"), name) is None


def test_the_refusal_of_a_name_says_what_is_wrong() -> None:
    """In words: a pattern of invisible characters would help nobody."""
    why = read(CONTRACT.operations["create_task"], ("name",), "invoice\u202efdp.exe")
    assert why is not None
    assert "changes the direction of text" in why
    assert "/name" in why
