"""The blocking client: the asynchronous one on an event loop of its own."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from agentzero_client.client import AsyncClient
from agentzero_client.events import Event, EventFilter
from agentzero_client.facade import Facade, blocking, iterating
from agentzero_client.portal import LoopThread, Portal
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
from agentzero_client.watch import AsyncWatch


class Auth(Facade[AsyncAuth]):
    """`client.auth`: see `AsyncAuth`."""

    login = blocking(AsyncAuth.login)
    refresh = blocking(AsyncAuth.refresh)
    logout = blocking(AsyncAuth.logout)
    me = blocking(AsyncAuth.me)
    change_password = blocking(AsyncAuth.change_password)


class Users(Facade[AsyncUsers]):
    """`client.users`: see `AsyncUsers`."""

    create = blocking(AsyncUsers.create)
    list = iterating(AsyncUsers.list)
    get = blocking(AsyncUsers.get)
    update = blocking(AsyncUsers.update)
    delete = blocking(AsyncUsers.delete)
    reset_password = blocking(AsyncUsers.reset_password)
    sessions = iterating(AsyncUsers.sessions)
    revoke_sessions = blocking(AsyncUsers.revoke_sessions)
    revoke_session = blocking(AsyncUsers.revoke_session)


class Sessions(Facade[AsyncSessions]):
    """`client.sessions`: see `AsyncSessions`."""

    list = iterating(AsyncSessions.list)
    revoke = blocking(AsyncSessions.revoke)
    revoke_others = blocking(AsyncSessions.revoke_others)


class ApiKeys(Facade[AsyncApiKeys]):
    """`client.api_keys`: see `AsyncApiKeys`."""

    create = blocking(AsyncApiKeys.create)
    list = iterating(AsyncApiKeys.list)
    get = blocking(AsyncApiKeys.get)
    revoke = blocking(AsyncApiKeys.revoke)
    rotate = blocking(AsyncApiKeys.rotate)


class Agents(Facade[AsyncAgents]):
    """`client.agents`: see `AsyncAgents`."""

    register = blocking(AsyncAgents.register)
    list = iterating(AsyncAgents.list)
    get = blocking(AsyncAgents.get)
    update = blocking(AsyncAgents.update)
    unregister = blocking(AsyncAgents.unregister)
    control = blocking(AsyncAgents.control)
    heartbeat = blocking(AsyncAgents.heartbeat)
    claim = blocking(AsyncAgents.claim)


class Leases(Facade[AsyncLeases]):
    """`client.leases`: see `AsyncLeases`."""

    renew = blocking(AsyncLeases.renew)
    append_logs = blocking(AsyncLeases.append_logs)
    attach = blocking(AsyncLeases.attach)
    complete = blocking(AsyncLeases.complete)
    fail = blocking(AsyncLeases.fail)
    release = blocking(AsyncLeases.release)


class Tasks(Facade[AsyncTasks]):
    """`client.tasks`: see `AsyncTasks`."""

    submit = blocking(AsyncTasks.submit)
    submit_batch = blocking(AsyncTasks.submit_batch)
    graph = blocking(AsyncTasks.graph)
    cancel_subtree = blocking(AsyncTasks.cancel_subtree)
    get = blocking(AsyncTasks.get)
    list = iterating(AsyncTasks.list)
    cancel = blocking(AsyncTasks.cancel)
    retry = blocking(AsyncTasks.retry)
    logs = blocking(AsyncTasks.logs)
    artifacts = blocking(AsyncTasks.artifacts)
    artifact = blocking(AsyncTasks.artifact)
    wait = blocking(AsyncTasks.wait)
    wait_for = blocking(AsyncTasks.wait_for)
    update = blocking(AsyncTasks.update)


class Schedules(Facade[AsyncSchedules]):
    """`client.schedules`: see `AsyncSchedules`."""

    create = blocking(AsyncSchedules.create)
    get = blocking(AsyncSchedules.get)
    list = iterating(AsyncSchedules.list)
    update = blocking(AsyncSchedules.update)
    delete = blocking(AsyncSchedules.delete)
    pause = blocking(AsyncSchedules.pause)
    resume = blocking(AsyncSchedules.resume)
    run = blocking(AsyncSchedules.run)
    times = blocking(AsyncSchedules.times)


class Hive(Facade[AsyncHive]):
    """`client.hive`: see `AsyncHive`."""

    status = blocking(AsyncHive.status)
    control = blocking(AsyncHive.control)
    topology = blocking(AsyncHive.topology)
    diagnoses = iterating(AsyncHive.diagnoses)
    diagnose = blocking(AsyncHive.diagnose)
    rebalance = blocking(AsyncHive.rebalance)


class Messages(Facade[AsyncMessages]):
    """`client.messages`: see `AsyncMessages`."""

    send = blocking(AsyncMessages.send)
    broadcast = blocking(AsyncMessages.broadcast)
    read = blocking(AsyncMessages.read)
    acknowledge = blocking(AsyncMessages.acknowledge)


class Events(Facade[AsyncEvents]):
    """`client.events`: see `AsyncEvents`."""

    list = iterating(AsyncEvents.list)


class Watch(Facade[AsyncWatch]):
    """A blocking iterator over events; `with` waits for the subscription. See `AsyncWatch`."""

    started = blocking(AsyncWatch.started)
    close = blocking(AsyncWatch.close)

    @property
    def cursor(self) -> int | None:
        """The `seq` of the last event that was handed out."""
        return self._asynchronous.cursor

    def __enter__(self) -> Self:
        try:
            self.started()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._portal.run(_next(self._asynchronous))
        if event is None:
            raise StopIteration
        return event


class BlockingClient:
    """The resources of an AsyncClient for code that waits, over somebody's event loop."""

    def __init__(self, asynchronous: AsyncClient, portal: Portal) -> None:
        self._asynchronous = asynchronous
        self._portal = portal
        self.auth = Auth(asynchronous.auth, portal)
        self.users = Users(asynchronous.users, portal)
        self.sessions = Sessions(asynchronous.sessions, portal)
        self.api_keys = ApiKeys(asynchronous.api_keys, portal)
        self.agents = Agents(asynchronous.agents, portal)
        self.leases = Leases(asynchronous.leases, portal)
        self.tasks = Tasks(asynchronous.tasks, portal)
        self.schedules = Schedules(asynchronous.schedules, portal)
        self.hive = Hive(asynchronous.hive, portal)
        self.messages = Messages(asynchronous.messages, portal)
        self.events = Events(asynchronous.events, portal)

    def watch(
        self,
        events: Sequence[str] = ("*",),
        *,
        cursor: int | None = None,
        filter: EventFilter | None = None,  # noqa: A002  # The protocol's name.
    ) -> Watch:
        """Watch events: see `AsyncClient.watch`."""
        watch = self._asynchronous.watch(events, cursor=cursor, filter=filter)
        return Watch(watch, self._portal)


class Client(BlockingClient):
    """Talks to AgentZero API and waits for the answers. The arguments are those of AsyncClient.

    Usable from several threads at once. Close it (`with`), or it ends with the process.
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
        asynchronous = AsyncClient(
            base_url,
            token=token,
            api_key=api_key,
            username=username,
            password=password,
            timeout_seconds=timeout_seconds,
            retries=retries,
            trust_env=trust_env,
            signer=signer,
            tls=tls,
        )
        self._thread = LoopThread()
        self._closed = False
        super().__init__(asynchronous, self._thread)

    def close(self) -> None:
        """Close every watch and connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._portal.run(self._asynchronous.close())
        finally:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _next(watch: AsyncWatch) -> Event | None:
    try:
        return await anext(watch)
    except StopAsyncIteration:
        return None
