"""The stores that the nodes of a test share."""

from __future__ import annotations

import uuid

import pytest

from tests.identity.conftest import postgres_server

__all__ = ["postgres_server"]


@pytest.fixture(scope="module")
def sql_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PostgreSQL where there is one, else one SQLite file for all of the nodes."""
    try:
        server = str(request.getfixturevalue("postgres_server"))
    except pytest.skip.Exception:
        return f"sqlite:///{tmp_path_factory.mktemp('sql') / 'identities.sqlite3'}"
    import psycopg  # noqa: PLC0415 - not on every machine; `postgres_server` skips first there

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name)
