"""The asynchronous client: one object for one server and one credential."""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from agentzero_client.address import server_url
from agentzero_client.credentials import Credentials, FixedCredentials, SessionCredentials
from agentzero_client.events import EventFilter
from agentzero_client.http import Http
from agentzero_client.resources.agents import AsyncAgents
from agentzero_client.resources.api_keys import AsyncApiKeys
from agentzero_client.resources.auth import AsyncAuth
from agentzero_client.resources.event_log import AsyncEvents
from agentzero_client.resources.hive import AsyncHive
from agentzero_client.resources.leases import AsyncLeases
from agentzero_client.resources.messages import AsyncMessages
from agentzero_client.resources.schedules import AsyncSchedules
from agentzero_client.resources.sessions import AsyncSessions
from agentzero_client.resources.tasks import AsyncTasks
from agentzero_client.resources.users import AsyncUsers
from agentzero_client.retrying import RetryPolicy
from agentzero_client.signing import Signer
from agentzero_client.waiting import TaskEnds
from agentzero_client.watch import AsyncWatch

API_KEY_VARIABLE = "AGENTZERO_API_KEY"


class AsyncClient:
    """Talks to AgentZero API. Use it within one event loop and close it (`async with`).

    `base_url` defaults to AGENTZERO_SERVER, then `http://127.0.0.1:8000`. The credential is a
    `token` (an access token), an `api_key`, or `username` and `password` (logs in at first use and
    keeps the session fresh); with none of them AGENTZERO_API_KEY. A `signer` signs every request
    (`agentzero_client.signing`). `tls` says whose certificates are believed; without it
    AGENTZERO_CA_FILE does, a file of certificates in PEM, else the system. `timeout_seconds` bounds
    each request, a connection has 5 s. Raises ValueError for arguments that don't fit together.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        token: str | None = None,
        api_key: str | None = None,
        username: str | None = None,
        password: str | None = None,
        timeout_seconds: float = 30.0,
        retries: RetryPolicy | None = None,
        trust_env: bool = True,
        signer: Signer | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._http = Http(
            server_url(base_url),
            _credentials(token, api_key, username, password),
            timeout_seconds=timeout_seconds,
            retries=retries,
            trust_env=trust_env,
            signer=signer,
            tls=tls,
        )
        self._ends = TaskEnds(self.watch)
        self._watches: weakref.WeakSet[AsyncWatch] = weakref.WeakSet()
        self.auth = AsyncAuth(self._http)
        self.users = AsyncUsers(self._http)
        self.sessions = AsyncSessions(self._http)
        self.api_keys = AsyncApiKeys(self._http)
        self.agents = AsyncAgents(self._http)
        self.leases = AsyncLeases(self._http)
        self.tasks = AsyncTasks(self._http, self._ends)
        self.schedules = AsyncSchedules(self._http)
        self.hive = AsyncHive(self._http)
        self.messages = AsyncMessages(self._http)
        self.events = AsyncEvents(self._http)

    @property
    def http(self) -> Http:
        """The sender of requests, for operations that have no method here yet."""
        return self._http

    def watch(
        self,
        events: Sequence[str] = ("*",),
        *,
        cursor: int | None = None,
        filter: EventFilter | None = None,  # noqa: A002  # The protocol's name.
    ) -> AsyncWatch:
        """Watch events of these types (`task.completed`, `task.*`, `*`) as they happen.

        With `cursor` everything behind that `seq` comes first. See `agentzero_client.watch`.
        """
        if isinstance(events, str) or not events:
            raise ValueError("events is a list of patterns with at least one in it")
        watch = AsyncWatch(self._http, tuple(events), cursor, filter or EventFilter())
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """Close every watch and connection. Idempotent."""
        await self._ends.close()
        for watch in list(self._watches):
            await watch.close()
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _credentials(
    token: str | None, api_key: str | None, username: str | None, password: str | None
) -> Credentials:
    session = username is not None or password is not None
    if sum((token is not None, api_key is not None, session)) > 1:
        raise ValueError("give one of token, api_key, or username with password")
    if session:
        if username is None or password is None:
            raise ValueError("username and password go together")
        return SessionCredentials(username, password)
    bearer = token or api_key or os.environ.get(API_KEY_VARIABLE) or None
    return FixedCredentials(bearer)
