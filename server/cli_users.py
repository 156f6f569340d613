"""`agentzero user`: who may log in.

With a server running on the data directory its REST interface does the work, and the operator's
key proves who asks. Without one the database is changed directly, under the data directory's lock:
whoever may read that directory is let in again when the admin's password or signing key is lost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from hive.changes import Actor
from hive.identity import username_key
from hive.permissions import Role
from server.cli_database import change_database
from server.cli_exits import FAILED, read_settings, refuse
from server.cli_server import OperatorLink, find_link
from server.data_directory import DataDirectory
from server.settings import Settings

if TYPE_CHECKING:
    from hive.signing_ports import SigningKeyStore
    from server.users import StoredUsers

OPERATOR = Actor("system:operator")
USERS = "/api/v1/users"
SIGNING_KEYS = "/api/v1/signing-keys"
PAGE = 200
COLUMNS = ("username", "role", "disabled", "user_id", "created_at")
View = Mapping[str, Any]
T = TypeVar("T")

app = typer.Typer(
    help="Who may log in. While no server runs, the database itself is changed.",
    no_args_is_help=True,
)

AskPassword = Annotated[
    bool,
    typer.Option("--ask-password", help="Ask for the password; else a random one is printed."),
]
Username = Annotated[str, typer.Argument(help="The name that the user logs in with.")]


class People(Protocol):
    """The users, wherever they are reached."""

    def create(self, username: str, password: str, role: Role) -> View:
        """Add a user."""

    def list(self, query: Mapping[str, str]) -> Sequence[View]:
        """All users that match."""

    def reset_password(self, user_id: str, password: str | None) -> str | None:
        """Set another password; the random one, when none is given."""

    def disable(self, user_id: str) -> None:
        """Let the user in no more."""

    def reset_signing(self, user_id: str) -> int:
        """Revoke every live signing key of the user; how many there were."""


@app.command()
def create(
    username: Username,
    role: Annotated[Role, typer.Option(help="What the user may do.")] = Role.USER,
    *,
    ask_password: AskPassword = False,
) -> None:
    """Make a user."""
    from server.users import random_password  # noqa: PLC0415 - `--help` should not wait

    if role is Role.AGENT:
        raise refuse("Agents are no users: register an agent instead.")
    password = _prompt() if ask_password else random_password()
    made = _people().create(username, password, role)
    typer.echo(f"User `{made['username']}` was made, of role {made['role']}.")
    if not ask_password:
        typer.echo(f"The password is: {password}")


@app.command(name="list")
def list_users(
    role: Annotated[Role | None, typer.Option(help="Only users of this role.")] = None,
    disabled: Annotated[
        bool | None, typer.Option("--disabled/--enabled", help="Only users that are so.")
    ] = None,
) -> None:
    """Show all users, oldest first."""
    query = {} if role is None else {"role": role.value}
    if disabled is not None:
        query["disabled"] = str(disabled).lower()
    rows = [
        [str(user[column]).lower() if column == "disabled" else user[column] for column in COLUMNS]
        for user in _people().list(query)
    ]
    for row in (COLUMNS, *rows):
        typer.echo("\t".join(row))


@app.command()
def reset_password(username: Username, *, ask_password: AskPassword = False) -> None:
    """Give a user another password; every session of the user ends."""
    people = _people()
    user = _find(people, username)
    made = people.reset_password(user["user_id"], _prompt() if ask_password else None)
    typer.echo(f"User `{user['username']}` has another password; all sessions ended.")
    if made is not None:
        typer.echo(f"The password is: {made}")


@app.command()
def disable(username: Username) -> None:
    """Let a user in no more; every session of the user ends."""
    people = _people()
    user = _find(people, username)
    people.disable(user["user_id"])
    typer.echo(f"User `{user['username']}` is disabled; all sessions ended.")


@app.command()
def reset_signing(username: Username) -> None:
    """Revoke all signing keys of a user who lost them, also those of the user's API keys."""
    people = _people()
    user = _find(people, username)
    revoked = people.reset_signing(user["user_id"])
    typer.echo(
        f"User `{user['username']}` has no signing key any more: {revoked} revoked. "
        "The next one can be registered without a signature."
    )


class _Remote:
    """The users of a running server."""

    def __init__(self, link: OperatorLink) -> None:
        self._link = link

    def create(self, username: str, password: str, role: Role) -> View:
        body = {"username": username, "password": password, "role": role.value}
        return dict(self._link.ask("POST", USERS, body))

    def list(self, query: Mapping[str, str]) -> Sequence[View]:
        return list(self._link.pages(USERS, query))

    def reset_password(self, user_id: str, password: str | None) -> str | None:
        body = {} if password is None else {"password": password}
        answer = self._link.ask("POST", f"{USERS}/{user_id}/password", body)
        return answer.get("password") if password is None else None

    def disable(self, user_id: str) -> None:
        self._link.ask("PATCH", f"{USERS}/{user_id}", {"disabled": True})

    def reset_signing(self, user_id: str) -> int:
        keys = self._link.pages(SIGNING_KEYS, {"owner": user_id})
        live = [key["signing_key_id"] for key in keys if "revoked_at" not in key]
        for signing_key_id in live:
            self._link.ask("DELETE", f"{SIGNING_KEYS}/{signing_key_id}")
        return len(live)


class _Local:
    """The users in the database, while no server runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def create(self, username: str, password: str, role: Role) -> View:
        _check_username(username)

        async def work(users: StoredUsers) -> View:
            return _view(await users.create(username, password, role, OPERATOR))

        return self._run(work)

    def list(self, query: Mapping[str, str]) -> Sequence[View]:
        from hive.users import UserFilter  # noqa: PLC0415 - `--help` should not wait

        role, disabled = query.get("role"), query.get("disabled")
        wanted = UserFilter(
            Role(role) if role else None, None if disabled is None else disabled == "true"
        )

        async def work(users: StoredUsers) -> Sequence[View]:
            found: list[View] = []
            after: str | None = None
            while page := await users.list(wanted, after=after, limit=PAGE):
                found += [_view(detail) for detail in page]
                after = page[-1].user.user_id
            return found

        return self._run(work)

    def reset_password(self, user_id: str, password: str | None) -> str | None:
        return self._run(lambda users: users.reset_password(user_id, password, OPERATOR))

    def disable(self, user_id: str) -> None:
        from hive.users import UserChange  # noqa: PLC0415 - `--help` should not wait

        self._run(lambda users: users.update(user_id, UserChange(disabled=True), OPERATOR))

    def reset_signing(self, user_id: str) -> int:
        from server import bootstrap  # noqa: PLC0415 - `--help` should not wait

        async def work(keys: SigningKeyStore) -> int:
            return await keys.revoke_all(user_id, OPERATOR)

        return change_database(self._settings, bootstrap.open_signing_keys, work)

    def _run(self, work: Callable[[StoredUsers], Awaitable[T]]) -> T:
        from server import bootstrap  # noqa: PLC0415 - `--help` should not wait

        return change_database(self._settings, bootstrap.open_users, work)


def _people() -> People:
    settings = read_settings()
    link = find_link(DataDirectory(settings.data_dir))
    return _Local(settings) if link is None else _Remote(link)


def _find(people: People, username: str) -> View:
    wanted = username_key(username)
    for user in people.list({}):
        if username_key(user["username"]) == wanted:
            return user
    raise refuse(f"There is no user `{username}`.", FAILED)


def _view(detail: Any) -> View:
    from handlers.views import user_view  # noqa: PLC0415 - `--help` should not wait
    from server.answers import encode_json  # noqa: PLC0415

    return dict(json.loads(encode_json(user_view(detail))))


def _check_username(username: str) -> None:
    """Refuse what the contract refuses: it is not there to judge when no server runs."""
    from server.bootstrap import bind_interface  # noqa: PLC0415 - `--help` should not wait

    operation = bind_interface().operations["create_user"].operation
    body = {"username": username, "password": "x" * 20}
    if operation.body is None or not operation.body.schemas["application/json"].is_valid(body):
        raise refuse(f"`{username}` can't be a username.", FAILED)


def _prompt() -> str:
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
