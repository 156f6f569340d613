"""Prepares what several nodes of one machine share, and runs them (`server/workers.py`)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog

from server.bootstrap.identities import derive_keys, open_identity
from server.bootstrap.node import prepare_first_start
from server.bootstrap.serving import announce, read_certificate_of, url_of
from server.data_directory import DataDirectory
from server.embedded import EmbeddedMongo
from server.first_start import FirstStart
from server.settings import PREFIX, Settings, SettingsError
from server.workers import Worker, Workers, reserve_port

log = structlog.get_logger(__name__)


async def serve_workers(settings: Settings, count: int) -> None:
    """Run so many nodes until SIGTERM or SIGINT.

    Raises SettingsError, DataDirectoryError, EmbeddedMongoError, Unavailable, WorkersFailed.
    """
    if not settings.redis_url.get_secret_value():
        problem = f"{PREFIX}REDIS_URL: --workers {count} needs a Redis that the nodes share"
        raise SettingsError([problem])
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    certificate = read_certificate_of(settings)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(DataDirectory(settings.data_dir))
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            mongo = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = await mongo.start()
            stack.push_async_callback(mongo.stop)
        first_start = await _prepare_identities(settings, directory)
        reserved = stack.enter_context(_reserve(settings.host, settings.port))
        shared = {
            **_stores(settings, directory, uri),
            "PORT": str(reserved.getsockname()[1]),
            "RATE_LIMIT_NODES": str(min(1_000, settings.rate_limit_nodes * count)),
        }
        workers = Workers([_worker(number, directory, shared) for number in range(1, count + 1)])
        stack.push_async_callback(workers.stop, settings.drain_seconds)
        if not await workers.start(stopping):
            return
        if certificate is not None:
            # Each of them reads its certificate again.
            loop.add_signal_handler(signal.SIGHUP, workers.send, signal.SIGHUP)
        url = url_of(settings.host, reserved, has_tls=certificate is not None)
        directory.write_running_server(url, certificate.chain if certificate else None)
        announce(url, settings, directory, first_start)
        await workers.watch(stopping)


async def _prepare_identities(settings: Settings, directory: DataDirectory) -> FirstStart:
    """Bring the schema up to date and make what a first start makes: once, not once a node."""
    async with AsyncExitStack() as stack:
        keys = derive_keys(settings, directory)
        identity = await open_identity(stack, settings, directory, keys)
        return await prepare_first_start(settings, directory, identity)


def _reserve(host: str, port: int) -> socket.socket:
    try:
        return reserve_port(host, port)
    except OSError as error:
        problem = f"{PREFIX}HOST, {PREFIX}PORT: can't listen on {host}:{port}: {error.strerror}"
        raise SettingsError([problem]) from error


def _stores(settings: Settings, directory: DataDirectory, mongodb_uri: str) -> Mapping[str, str]:
    sql_url = settings.sql_url.get_secret_value() or f"sqlite:///{directory.sqlite_path}"
    secret_key = settings.secret_key.get_secret_value() or directory.secret_key()
    return {"MONGODB_URI": mongodb_uri, "SQL_URL": sql_url, "SECRET_KEY": secret_key}


def _worker(number: int, directory: DataDirectory, shared: Mapping[str, str]) -> Worker:
    place = directory.path / "workers" / str(number)
    operator_key = directory.find_operator_key()
    if operator_key is not None:
        # The node finds one that works, and makes none of its own.
        with DataDirectory(place) as own:
            own.write_operator_key(operator_key)
    given = {name: value for name, value in os.environ.items() if name.upper() != _PASSWORD}
    ours = {f"{PREFIX}{name}": value for name, value in shared.items()}
    return Worker(number, place, {**given, **ours, f"{PREFIX}DATA_DIR": str(place)})


_PASSWORD = f"{PREFIX}ADMIN_PASSWORD"
