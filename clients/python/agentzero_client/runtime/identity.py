"""Who an agent is: an identifier and an API key that survive restarts.

Looked for in this order: 1. `agent_id` and `api_key`, or AGENTZERO_AGENT_ID and AGENTZERO_API_KEY
(a key alone tells its agent); 2. the state directory (AGENTZERO_STATE_DIRECTORY, else
`$XDG_STATE_HOME/agentzero`): a file, mode 0600, per server and name; 3. registration with an
admin's credential: `registration_key`, AGENTZERO_REGISTRATION_KEY, or the file
   AGENTZERO_REGISTRATION_KEY_FILE (such as the `operator.key` in the server's data directory). What
   it gives is kept in 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentzero_client.client import API_KEY_VARIABLE, AsyncClient
from agentzero_client.errors import (
    AuthenticationError,
    ConflictError,
    PermissionDeniedError,
    SecretLostError,
)
from agentzero_client.runtime.failures import AgentIdentityError

AGENT_ID_VARIABLE = "AGENTZERO_AGENT_ID"
STATE_VARIABLE = "AGENTZERO_STATE_DIRECTORY"
REGISTRATION_KEY_VARIABLE = "AGENTZERO_REGISTRATION_KEY"
REGISTRATION_FILE_VARIABLE = "AGENTZERO_REGISTRATION_KEY_FILE"


@dataclass(frozen=True, slots=True)
class Identity:
    """What an agent shows to the hive."""

    agent_id: str
    api_key: str = field(repr=False)
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What an agent says of itself when it registers."""

    name: str
    capabilities: list[str]
    slots: int
    agent_type: str | None
    labels: Mapping[str, str]


class StateFile:
    """Keeps the identity of one agent at one server, atomically and for its owner only."""

    def __init__(self, directory: Path | None, server: str, name: str) -> None:
        folder = directory or _default_directory()
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:64]
        digest = hashlib.sha256(f"{server}\n{name}".encode()).hexdigest()[:8]
        self._server = server
        self._name = name
        self.path = folder / f"{plain}-{digest}.json"

    def find(self) -> Identity | None:
        """Give what was kept, or None; raise AgentIdentityError when the file is damaged."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return Identity(str(kept["agent_id"]), str(kept["api_key"]), str(self.path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AgentIdentityError(
                f"The agent's state file {self.path} can't be read ({error}). Repair or remove it."
            ) from error

    def check_writable(self) -> None:
        """Raise AgentIdentityError now rather than after a key was shown that can't be kept."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write("")
            self._temporary.unlink()
        except OSError as error:
            raise AgentIdentityError(
                f"The agent can't keep its identity in {self.path.parent} ({error}). "
                f"Name another folder with state_directory= or {STATE_VARIABLE}."
            ) from error

    def keep(self, identity: Identity) -> None:
        """Store the identity."""
        kept = {
            "server": self._server,
            "name": self._name,
            "agent_id": identity.agent_id,
            "api_key": identity.api_key,
        }
        self._write(json.dumps(kept, indent=2) + "\n")
        self._temporary.replace(self.path)

    @property
    def _temporary(self) -> Path:
        return self.path.with_suffix(f".{os.getpid()}.new")

    def _write(self, text: str) -> None:
        self._temporary.unlink(missing_ok=True)
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)


async def find_identity(
    server: str,
    announcement: Announcement,
    *,
    agent_id: str | None,
    api_key: str | None,
    registration_key: str | None,
    state_directory: Path | None,
    trust_env: bool = True,
) -> Identity:
    """Find or make the identity. Raise AgentIdentityError, which says what to do."""
    api_key = api_key or os.environ.get(API_KEY_VARIABLE) or None
    agent_id = agent_id or os.environ.get(AGENT_ID_VARIABLE) or None
    if api_key:
        agent_id = agent_id or await _agent_of(server, api_key, trust_env)
        return Identity(agent_id, api_key, f"the API key that was given, or {API_KEY_VARIABLE}")
    state = StateFile(state_directory, server, announcement.name)
    kept = state.find()
    if kept is not None:
        return kept
    key = registration_key or _registration_key()
    if key is None:
        raise AgentIdentityError(
            f"Agent {announcement.name!r} is not registered from here: there is no {state.path}. "
            f"Set {AGENT_ID_VARIABLE} and {API_KEY_VARIABLE}, or give an admin's key as "
            f"registration_key=, {REGISTRATION_KEY_VARIABLE} or {REGISTRATION_FILE_VARIABLE} "
            "so that it can register."
        )
    state.check_writable()
    identity = await _register(server, announcement, key, state, trust_env)
    state.keep(identity)
    return identity


async def _register(
    server: str,
    announcement: Announcement,
    key: str,
    state: StateFile,
    trust_env: bool,  # noqa: FBT001
) -> Identity:
    async with AsyncClient(server, api_key=key, trust_env=trust_env) as admin:
        try:
            agent = await admin.agents.register(
                announcement.name,
                agent_type=announcement.agent_type,
                capabilities=announcement.capabilities,
                slots=announcement.slots,
                labels=announcement.labels,
            )
        except SecretLostError as error:
            raise AgentIdentityError(
                f"Agent {announcement.name!r} was registered, and the answer with its key was "
                "lost. Unregister it, and start again."
            ) from error
        except ConflictError as error:
            raise AgentIdentityError(
                f"The name {announcement.name!r} is taken, and its key is not in {state.path}. "
                f"Use the state directory of that agent, set {AGENT_ID_VARIABLE} and "
                f"{API_KEY_VARIABLE}, choose another name, or unregister the old agent first."
            ) from error
        except (AuthenticationError, PermissionDeniedError) as error:
            raise AgentIdentityError(
                f"The registration key may not register agents: {error.detail}"
            ) from error
    return Identity(agent.agent_id, agent.api_key, str(state.path))


async def _agent_of(server: str, api_key: str, trust_env: bool) -> str:  # noqa: FBT001
    async with AsyncClient(server, api_key=api_key, trust_env=trust_env) as client:
        try:
            me = await client.auth.me()
        except AuthenticationError as error:
            raise AgentIdentityError(f"The agent's API key is refused: {error.detail}") from error
    if me.agent_id is None:
        raise AgentIdentityError(
            f"The API key belongs to {me.username!r}, which is no agent. "
            "Give an admin's key as registration_key= instead."
        )
    return me.agent_id


def _registration_key() -> str | None:
    if key := os.environ.get(REGISTRATION_KEY_VARIABLE):
        return key
    path = os.environ.get(REGISTRATION_FILE_VARIABLE)
    return read_key(Path(path)) if path else None


def read_key(path: Path) -> str:
    """Read an API key from a file such as `operator.key`; raise AgentIdentityError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise AgentIdentityError(f"The registration key {path} can't be read: {error}") from error


def _default_directory() -> Path:
    if folder := os.environ.get(STATE_VARIABLE):
        return Path(folder)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "agentzero"
