"""Databases for the tests of identity: a SQLite file each, and a PostgreSQL where there is one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.identity.node import Clock, Node, build, running


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in candidates if (path / "postgres").exists()), None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A private PostgreSQL on a Unix socket; the URL without a database's name."""
    programs = _postgres_programs()
    if programs is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL on this machine (needs initdb and psycopg)")
    user: str | None = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("running as root, and there is no user postgres to run PostgreSQL as")
    # In memory where the other stores are; its user must not need the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="agentzero-pg-", dir=os.getenv("PYTEST_DEBUG_TEMPROOT")))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    initialise: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "agentzero",
        "-A",
        "trust",
        "-E",
        "UTF8",
    ]
    subprocess.run(initialise, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)
    command: list[str | Path] = [
        programs / "postgres",
        "-D",
        data,
        "-k",
        folder,
        "-F",
        "-c",
        "listen_addresses=",
    ]
    server = subprocess.Popen(command, user=user, cwd="/", stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready([programs / "pg_isready", "-q", "-h", folder], server)
        yield f"postgresql://agentzero@/{{}}?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(question: list[str | Path], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if subprocess.run(question, check=False).returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"PostgreSQL ended at once with {server.wait(timeout=0.05)}")
    pytest.fail("PostgreSQL did not start within 30 s")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty SQLite database in a folder with an awkward name."""
    folder = tmp_path / "100% data"
    folder.mkdir()
    return f"sqlite:///{folder / 'identity.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    import psycopg  # noqa: PLC0415 - not on every machine; `postgres_server` skips first there

    server = str(request.getfixturevalue("postgres_server"))
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name)


@pytest.fixture
def clock() -> Clock:
    """The time of the database, to be moved on."""
    return Clock()


@pytest.fixture
async def node(url: str, clock: Clock) -> AsyncIterator[Node]:
    """One running node on each kind of database."""
    async with running(build(url, clock)) as built:
        yield built


@pytest.fixture
async def sqlite_node(sqlite_url: str, clock: Clock) -> AsyncIterator[Node]:
    """One running node on SQLite, for what does not depend on the database."""
    async with running(build(sqlite_url, clock)) as built:
        yield built
