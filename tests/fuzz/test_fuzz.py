"""Schemathesis against the server as users run it: every phase, every check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from hive.permissions import ROLE_PERMISSIONS, Role
from server.contract import Operation
from server.resources import openapi_path
from tests.contracts import our_contract
from tests.fuzz.arranging import PASSWORD, Arranging, Caller, prepare
from tests.servers import ROOT, ServerProcess

OPERATIONS = our_contract().operations
# Limits are on, and far away: what they refuse is no finding.
LIMITS = dict.fromkeys(
    (
        "RATE_LIMIT_READ",
        "RATE_LIMIT_WRITE",
        "RATE_LIMIT_HEAVY",
        "RATE_LIMIT_TASK_SUBMIT",
        "RATE_LIMIT_AUTH",
        "RATE_LIMIT_AGENT",
        "RATE_LIMIT_ADDRESS",
    ),
    "1000000",
)
# What changes who asks: it would end the whole run. Somebody new does each.
ON_ONESELF = ("logout", "change_password", "create_signing_key", "revoke_session")
# What can be done once with what was given, before the rest of the run takes it away.
ONCE = tuple(
    f"--include-operation-id={name}"
    for name in ("refresh", "revoke_user_session", "revoke_signing_key", "get_signing_key")
)
OTHERS = tuple(f"--exclude-operation-id={name}" for name in ON_ONESELF)
# Agents log in nowhere: with their keys these are refused.
SESSIONS_ONLY = frozenset(ON_ONESELF)
Answers = dict[str, dict[str, int]]


@pytest.fixture
def admin(
    tmp_path: Path, mongodb_uri: str, mongodb_client: MongoClient[dict[str, Any]]
) -> Iterator[Arranging]:
    """The operator of a server of its own."""
    database = f"test_{uuid.uuid4().hex}"
    server = ServerProcess(
        tmp_path / "data",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        ADMIN_PASSWORD=PASSWORD,
        LOG_LEVEL="error",
        # The leases that were made for the run outlive it, however slow the machine is.
        LEASE_SECONDS="3600",
        AGENT_TIMEOUT_SECONDS="3600",
        **LIMITS,
    )
    try:
        url = server.start()
        key = server.data.find_operator_key()
        assert key is not None
        with Arranging(url, key) as operator:
            yield operator
    finally:
        server.stop()
        mongodb_client.drop_database(database)


def fuzz(caller: Caller, tmp_path: Path, *options: str) -> Answers:
    """Run Schemathesis; it has to find nothing. The number of answers by operation and status."""
    tally = tmp_path / "tally.json"
    environment = {
        **os.environ,
        "AGENTZERO_FUZZ_KEY": caller.credential,
        "AGENTZERO_FUZZ_GIVEN": json.dumps(caller.given),
        "AGENTZERO_FUZZ_OWN": json.dumps(own_identifiers(caller)),
        "AGENTZERO_FUZZ_TALLY": str(tally),
        # Hypothesis keeps no examples between runs, and leaves nothing in the checkout.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis"),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(openapi_path())]
    done = subprocess.run(
        [*command, "--url", caller.url, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-30_000:]}\n{done.stderr[-3_000:]}"
    print(done.stdout[-1_500:])  # noqa: T201 - shown when a later assertion fails
    answers: Answers = json.loads(tally.read_text())
    return answers


def own_identifiers(caller: Caller) -> list[str]:
    """Who fuzzes: the user or agent, the API key, the session."""
    with Arranging(caller.url, caller.credential) as asking:
        me = asking.get("auth/me")
    return [me[name] for name in ("principal_id", "key_id", "session_id") if name in me]


def fuzz_on_oneself(admin: Arranging, caller: Caller, tmp_path: Path) -> list[Answers]:
    """What changes the caller is done by a new user each, with a session and a second one."""
    runs = []
    for name in ON_ONESELF:
        user_id, username = admin.add_user(caller.role)
        admin.log_in(username)
        (session,) = admin.get(f"users/{user_id}/sessions")
        token = admin.log_in(username)["access_token"]
        given = {"revoke_session": {"path": {"session_id": session["session_id"]}}}
        alone = replace(caller, credential=token, given=given)
        phases = "--phases=examples,coverage"
        runs.append(fuzz(alone, tmp_path, f"--include-operation-id={name}", phases))
    return runs


def fuzz_everything(admin: Arranging, role: Role, tmp_path: Path, *options: str) -> Answers:
    """All operations as a caller of the role, each with all phases and checks."""
    caller = prepare(admin, role)
    # First: the others guess passwords until no unknown user of this address may log in.
    runs = [] if role is Role.AGENT else fuzz_on_oneself(admin, caller, tmp_path)
    runs.append(fuzz(caller, tmp_path, *ONCE, "--phases=examples"))
    runs.append(fuzz(caller, tmp_path, *OTHERS, *options))
    answers: Answers = {name: {} for name in OPERATIONS}
    for run in runs:
        for name, statuses in run.items():
            for status, number in statuses.items():
                answers[name][status] = answers[name].get(status, 0) + number
    return answers


def may_call(role: Role, operation: Operation) -> bool:
    """By the contract."""
    return operation.public or operation.permission in ROLE_PERMISSIONS[role]


def assert_every_operation_answered(role: Role, answers: Answers) -> None:
    """A refusal proves little: each that the role may call gave a success, each other one 403."""
    wrong = {
        name: statuses
        for name, statuses in answers.items()
        if not (role is Role.AGENT and name in SESSIONS_ONLY)
        and may_call(role, OPERATIONS[name]) is not succeeded(statuses)
    }
    assert wrong == {}
    unrefused = {
        name: statuses
        for name, statuses in answers.items()
        if not may_call(role, OPERATIONS[name])
        and name not in SESSIONS_ONLY
        and "403" not in statuses
    }
    assert unrefused == {}
    failed = {name for name, statuses in answers.items() if any(s[0] == "5" for s in statuses)}
    assert failed <= {"get_readiness"}


def succeeded(statuses: dict[str, int]) -> bool:
    """Whether one of the answers was a success."""
    return any(status.startswith("2") for status in statuses)


def tell(role: Role, answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    """The list of operations with their answers."""
    lines = [
        f"{name:<24}"
        + " ".join(f"{status}x{number}" for status, number in sorted(answers[name].items()))
        for name in sorted(answers)
    ]
    with capsys.disabled():
        print(f"\nAnswers to {role}:", *lines, sep="\n  ")  # noqa: T201 - it is asked for


@pytest.mark.timeout(900)
def test_fuzzing_as_admin_finds_nothing(admin: Arranging, tmp_path: Path) -> None:
    """All phases and checks with the operator's key; every operation reaches a 2xx."""
    answers = fuzz_everything(admin, Role.ADMIN, tmp_path, "--max-examples=10")
    assert_every_operation_answered(Role.ADMIN, answers)


@pytest.mark.more
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("role", list(Role))
def test_long_fuzzing_finds_nothing(
    admin: Arranging, tmp_path: Path, role: Role, capsys: pytest.CaptureFixture[str]
) -> None:
    """More examples, of another seed, as each role; what it may not call is refused to it."""
    answers = fuzz_everything(admin, role, tmp_path, "--max-examples=50", "--seed=1")
    tell(role, answers, capsys)
    assert_every_operation_answered(role, answers)


@pytest.mark.soak
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("role", list(Role))
def test_fuzzing_for_hours_finds_nothing(
    admin: Arranging, tmp_path: Path, role: Role, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,000 examples of each operation and role, agents too, of a third seed."""
    answers = fuzz_everything(admin, role, tmp_path, "--max-examples=1000", "--seed=2")
    tell(role, answers, capsys)
    assert_every_operation_answered(role, answers)
