"""The relational database: sessions in worker threads, one hop per unit of work.

Life cycle: `Database(url)`, `migrate()` once (blocking), then `await read(work)` and
`await write(work)` with a function that takes a session, and `close()` at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import tornado_sqlalchemy
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from hive.errors import Unavailable
from storage.sql import migrations

TIMEOUT_SECONDS = 2.0
T = TypeVar("T")


class Database:
    """One engine and its worker threads.

    `timeout_seconds` bounds every wait; past it, and when more than `threads + waiting` units of
    work are under way, Unavailable is raised. A write that timed out may still have happened.
    `clock` stands in for the database's own time in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        threads: int = 4,
        waiting: int = 256,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._url = _with_driver(make_url(url))
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._room = threads + waiting
        self._under_way = 0
        self._queued = 0
        self._turn = asyncio.Lock()
        self._ended = threading.Condition()
        tornado_sqlalchemy.set_max_workers(threads)
        self._sqlalchemy = tornado_sqlalchemy.SQLAlchemy(
            self._url,
            engine_options=_engine_options(self._url, threads, timeout_seconds),
            session_options={"expire_on_commit": False},
        )
        if self.is_sqlite:
            _configure_sqlite(self.engine, timeout_seconds)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine."""
        return cast(Engine, self._sqlalchemy.engine)

    @property
    def sessions(self) -> sessionmaker[Session]:
        """What makes the sessions of units of work, to listen to."""
        return cast("sessionmaker[Session]", self._sqlalchemy.sessionmaker)

    @property
    def is_sqlite(self) -> bool:
        """One file on one machine, one writer at a time."""
        return self._url.get_backend_name() == "sqlite"

    def migrate(self) -> None:
        """Create or upgrade the schema. Blocks, idempotent, safe on several nodes at once."""
        engine = self.engine.execution_options(begin="IMMEDIATE")
        with engine.begin() as connection:
            if not self.is_sqlite:
                # A node waits here for as long as another one migrates. The number is
                # arbitrary; it only has to be the same on every node.
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(select(func.pg_advisory_xact_lock(0x617A)))
            migrations.upgrade(connection)

    def revisions(self) -> tuple[str | None, str]:
        """The revision that the schema has, None before the first one, and the newest. Blocks."""
        with self.engine.connect() as connection:
            return migrations.revisions(connection)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a unit of work that changes nothing."""
        return await self._run(work, begin="DEFERRED")

    async def write(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        """Run a unit of work in one transaction: committed when it returns, else rolled back.

        What is not `durable` outlives the process, but a power cut may undo the last of it.
        """
        if not self.is_sqlite:
            return await self._run(work, begin="IMMEDIATE", durable=durable)
        # One writer at a time. Who waits here holds no thread, and comes in order; who waits inside
        # SQLite sleeps, longer each time, while others overtake.
        if self._queued >= self._room:
            raise Unavailable(reason="too much work waits for the SQL database")
        self._queued += 1
        try:
            async with asyncio.timeout(self._timeout_seconds), self._turn:
                return await self._run(work, begin="IMMEDIATE", durable=durable)
        except TimeoutError as error:
            raise Unavailable(reason="the SQL database did not answer in time") from error
        finally:
            self._queued -= 1

    async def write_once(self, work: Callable[[Session], T]) -> T:
        """As `write`, for work that looks for what it made before, and makes it if it is not there.

        Two of them at once may both find nothing; the one that lost looks again.
        """
        try:
            return await self.write(work)
        except IntegrityError:
            return await self.write(work)

    def now(self, session: Session) -> datetime:
        """The time of the database, which all nodes share."""
        if self._clock is not None:
            return self._clock()
        if self.is_sqlite:
            return datetime.now(UTC)
        return cast(datetime, session.scalar(select(func.clock_timestamp()))).astimezone(UTC)

    def close(self) -> None:
        """Wait for the work under way, `timeout_seconds` at most, and close the connections."""
        with self._ended:
            self._ended.wait_for(lambda: self._under_way == 0, timeout=self._timeout_seconds)
        self.engine.dispose()

    async def _run(self, work: Callable[[Session], T], *, begin: str, durable: bool = True) -> T:
        with self._ended:
            if self._under_way >= self._room:
                raise Unavailable(reason="too much work waits for the SQL database")
            self._under_way += 1

        def unit() -> T:
            try:
                with self._sqlalchemy.sessionmaker() as session:
                    session.connection(execution_options={"begin": begin, "durable": durable})
                    if not durable and not self.is_sqlite:
                        session.execute(text("SET LOCAL synchronous_commit = off"))
                    result = work(session)
                    session.commit()
                    return result
            finally:
                with self._ended:
                    self._under_way -= 1
                    self._ended.notify_all()

        try:
            async with asyncio.timeout(self._timeout_seconds):
                return cast(T, await tornado_sqlalchemy.as_future(unit))
        except TimeoutError as error:
            raise Unavailable(reason="the SQL database did not answer in time") from error
        except PoolTimeout as error:
            raise Unavailable(reason=str(error)) from error
        except (OperationalError, InterfaceError, InternalError) as error:
            raise Unavailable(reason=str(error.orig)) from error


def _with_driver(url: URL) -> URL:
    if url.drivername in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    return url


def _engine_options(url: URL, threads: int, timeout_seconds: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "pool_size": threads,
        "max_overflow": 0,
        "pool_timeout": timeout_seconds,
        # Parameters hold hashes and addresses; they have no place in error messages.
        "hide_parameters": True,
    }
    if url.get_backend_name() == "postgresql":
        milliseconds = int(timeout_seconds * 1000)
        options["pool_pre_ping"] = True
        options["connect_args"] = {
            "connect_timeout": max(2, int(timeout_seconds)),
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
            " -c synchronous_commit=on -c timezone=UTC",
            "tcp_user_timeout": milliseconds,
        }
    return options


def _configure_sqlite(engine: Engine, timeout_seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN is always deferred: a read that turns into a write then fails
        # at once instead of waiting for its turn. With None it leaves transactions to us.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(timeout_seconds * 1000)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        # With NORMAL the commit is in the log, and the disk has it at the next durable one.
        level = "FULL" if options.get("durable", True) else "NORMAL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.exec_driver_sql(f"BEGIN {options.get('begin', 'DEFERRED')}")
