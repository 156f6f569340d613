"""`agentzero user` while no server runs: it changes the database itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from typer.testing import CliRunner

from hive.changes import Actor
from hive.signing import SigningAlgorithm
from hive.signing_ports import NewSigningKey
from server import cli
from server.data_directory import DataDirectory
from server.passwords import Passwords
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.signing_keys import SqlSigningKeys

ACTOR = Actor("usr_1")
T = TypeVar("T")


def run(directory: Path, *arguments: str, given: str | None = None) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    env = {"AGENTZERO_DATA_DIR": str(directory)}
    result = CliRunner().invoke(cli.app, ["user", *arguments], env=env, input=given)
    return result.exit_code, result.output


def verified(directory: Path, username: str, password: str) -> bool:
    """Whether this is the password that is stored."""

    async def work() -> bool:
        database, passwords = Database(f"sqlite:///{directory / 'identities.sqlite3'}"), Passwords()
        try:
            found = await SqlIdentity(database).find_credentials(username)
            assert found is not None
            return (await passwords.verify(password, found[1])).correct
        finally:
            passwords.close()
            database.close()

    return asyncio.run(work())


def test_an_operator_who_lost_the_password_gets_in_again(tmp_path: Path) -> None:
    """The random password that is printed is the one that is stored."""
    code, said = run(tmp_path, "create", "ann", "--role", "admin")
    assert code == 0, said
    assert "User `ann` was made, of role admin." in said
    first = said.rpartition(": ")[2].strip()
    code, said = run(tmp_path, "reset-password", "ANN")
    assert code == 0, said
    second = said.rpartition(": ")[2].strip()
    assert not verified(tmp_path, "ann", first)
    assert verified(tmp_path, "ann", second)


def test_users_are_listed_and_disabled(tmp_path: Path) -> None:
    """One line each, oldest first, under the names of the columns."""
    for name, role in (("ann", "admin"), ("bob", "viewer"), ("eve", "user")):
        assert run(tmp_path, "create", name, "--role", role)[0] == 0
    assert run(tmp_path, "disable", "bob") == (0, "User `bob` is disabled; all sessions ended.\n")
    code, said = run(tmp_path, "list")
    lines = [line.split("\t") for line in said.splitlines()]
    assert code == 0
    assert lines[0] == ["username", "role", "disabled", "user_id", "created_at"]
    assert [line[:3] for line in lines[1:]] == [
        ["ann", "admin", "false"],
        ["bob", "viewer", "true"],
        ["eve", "user", "false"],
    ]
    assert re.fullmatch(r"usr_\w{26}", lines[1][3])
    only = [run(tmp_path, "list", *which)[1] for which in (("--disabled",), ("--role", "user"))]
    assert [said.splitlines()[1].split("\t")[0] for said in only] == ["bob", "eve"]


def test_a_password_that_is_asked_for_is_not_printed(tmp_path: Path) -> None:
    """Typed twice; the policy holds."""
    password = "correct horse battery staple"
    code, said = run(tmp_path, "create", "ann", "--ask-password", given=f"{password}\n" * 2)
    assert code == 0, said
    assert password not in said
    assert verified(tmp_path, "ann", password)
    code, said = run(tmp_path, "reset-password", "ann", "--ask-password", given="password\n" * 2)
    assert (code, "most common" in said) == (1, True)


def signing_keys(directory: Path, change: Callable[[SqlSigningKeys, str], Awaitable[T]]) -> T:
    """What `change` gives with the signing keys in the database and the identifier of ann."""

    async def work() -> T:
        database = Database(f"sqlite:///{directory / 'identities.sqlite3'}")
        try:
            found = await SqlIdentity(database).find_credentials("ann")
            assert found is not None
            return await change(SqlSigningKeys(database), found[0].user_id)
        finally:
            database.close()

    return asyncio.run(work())


def test_user_who_lost_the_signing_key_needs_none(tmp_path: Path) -> None:
    """Every live key is revoked, once; a second time there is none."""

    async def register(keys: SqlSigningKeys, owner: str) -> None:
        for number in (1, 2):
            new = NewSigningKey(f"sgk_{number}", owner, "lost", SigningAlgorithm.ED25519)
            await keys.create(new, ACTOR)

    async def live(keys: SqlSigningKeys, owner: str) -> int:
        return len(await keys.usable(owner, None))

    assert run(tmp_path, "create", "ann", "--role", "admin")[0] == 0
    signing_keys(tmp_path, register)
    assert signing_keys(tmp_path, live) == 2
    for revoked in (2, 0):
        code, said = run(tmp_path, "reset-signing", "ANN")
        assert (code, f"no signing key any more: {revoked} revoked." in said) == (0, True), said
        assert signing_keys(tmp_path, live) == 0


def test_refusals_are_said(tmp_path: Path) -> None:
    """Exit code 1 and what the matter is."""
    assert run(tmp_path, "create", "ann", "--role", "admin")[0] == 0
    for arguments, said in (
        (("disable", "ann"), "last enabled admin"),
        (("disable", "nobody"), "There is no user `nobody`."),
        (("reset-signing", "nobody"), "There is no user `nobody`."),
        (("create", "ANN"), "taken"),
        (("create", "a b"), "can't be a username"),
    ):
        code, output = run(tmp_path, *arguments)
        assert (code, said in output) == (1, True), output
    assert run(tmp_path, "create", "worker", "--role", "agent")[0] == 2


def test_directory_of_a_server_that_starts_is_left_alone(tmp_path: Path) -> None:
    """Exit code 2 while somebody has the lock and does not listen yet."""
    with DataDirectory(tmp_path):
        code, said = run(tmp_path, "list")
    assert code == 2
    assert "is in use by" in said
