"""Runs a node as a process: from the lock on the data directory to the end of the drain."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from server.app import make_http_server
from server.bootstrap.node import Node, bind_interface, open_node
from server.connection_counts import room_for_connections
from server.data_directory import DataDirectory
from server.embedded import EmbeddedMongo
from server.first_start import FirstStart
from server.http1 import StrictServer
from server.settings import Settings, SettingsError
from server.tls import Certificate, CertificateRefused, Renewal, read_certificate, warn_before_end
from server.tls_redirect import HTTPS_PORT, make_redirect_app

READY_SECONDS = 10.0
DRAIN_POLL_SECONDS = 0.05
LEAVING_SECONDS = 0.3
LAST_WORDS_SECONDS = 1.0
CLOSE_SECONDS = 1.0
log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, shares_port: bool = False) -> None:
    """Run a node until SIGTERM or SIGINT; `shares_port`: others listen on the port, too.

    Raises ContractError, BindingError, SettingsError, DataDirectoryError, EmbeddedMongoError,
    Unavailable.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    interface = bind_interface()
    certificate = read_certificate_of(settings)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(DataDirectory(settings.data_dir))
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            mongo = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = await mongo.start()
            stack.push_async_callback(mongo.stop)
        node = await stack.enter_async_context(open_node(settings, directory, uri, interface))
        if not await node.readiness.wait(READY_SECONDS):
            log.warning("server.not_ready", **await node.readiness.check())
        server = make_http_server(
            node.app,
            ssl_options=certificate.context if certificate else None,
            max_connections=room_for_connections(settings.max_connections),
            max_connections_per_address=settings.max_connections_per_address,
        )
        # What is there now stays: the collector need not walk through it (80 to 140 ms each time).
        gc.collect()
        gc.freeze()
        url = listen(server, settings.host, settings.port, shares_port=shares_port)
        directory.write_running_server(url, certificate.chain if certificate else None)
        _renew_on_hangup(stack, settings, server, url, directory)
        redirect = _listen_for_pages(settings, url, shares_port=shares_port)
        node.signs.listens(url)
        announce(url, settings, directory, node.first_start)
        await stopping.wait()
        if redirect is not None:
            redirect.stop()
        await drain(node, server, settings.drain_seconds)
        if redirect is not None:
            await redirect.close_all_connections()


def listen(server: HTTPServer, host: str, port: int, *, shares_port: bool = False) -> str:
    """Listen; the URL with the port that it is (0 asks for any). Raises SettingsError."""
    try:
        sockets = bind_sockets(port, host, reuse_port=shares_port)
    except OSError as error:
        problem = f"AGENTZERO_HOST, AGENTZERO_PORT: can't listen on {host}:{port}: {error.strerror}"
        raise SettingsError([problem]) from error
    server.add_sockets(sockets)
    return url_of(host, sockets[0], has_tls=server.ssl_options is not None)


def url_of(host: str, listening: socket.socket, *, has_tls: bool) -> str:
    """Where a socket on this host is reached."""
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if has_tls else "http"
    return f"{scheme}://{name}:{listening.getsockname()[1]}"


def read_certificate_of(settings: Settings) -> Certificate | None:
    """The certificate that the settings name. Raises SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        found = read_certificate(settings.tls_cert, settings.tls_key)
    except CertificateRefused as error:
        raise SettingsError(error.problems) from error
    warn_before_end(found)
    return found


def _renew_on_hangup(
    stack: AsyncExitStack,
    settings: Settings,
    server: HTTPServer,
    url: str,
    directory: DataDirectory,
) -> None:
    """With TLS, SIGHUP reads the certificate again; without, it ends the process as ever."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    renewal = Renewal(
        server,
        settings.tls_cert,
        settings.tls_key,
        lambda found: directory.write_running_server(url, found.chain),
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, renewal)
    stack.callback(loop.remove_signal_handler, signal.SIGHUP)


def _listen_for_pages(settings: Settings, url: str, *, shares_port: bool) -> HTTPServer | None:
    """The port without TLS that leads pages to the one with it, when it is wanted."""
    if settings.tls_redirect_port is None:
        return None
    server = make_http_server(make_redirect_app(urlsplit(url).port or HTTPS_PORT))
    at = listen(server, settings.host, settings.tls_redirect_port, shares_port=shares_port)
    log.info("server.redirects", url=at)
    return server


async def drain(node: Node, server: StrictServer, seconds: float) -> None:
    """Send everybody away, stop to accept, let requests end for so long, close what is left.

    1. The node is not ready. Each answer ends its connection, sockets end with 1012, claims wait no
    longer. It still accepts for a moment: whoever chose this node just now is answered.
    2. It takes what waits in the queue of the kernel, and listens no longer.
    3. Who is still connected has a moment to say more; what is under way ends.
    """
    deadline = time.monotonic() + seconds
    log.info("server.draining", seconds=seconds)
    node.readiness.drain()
    node.signs.drain()
    node.app.pipeline.draining = True
    node.links.prepare_stop()
    await node.dispatcher.stop()
    await node.task_waits.stop()
    await node.mailboxes.stop()
    await asyncio.gather(node.peers.drain(seconds / 2), asyncio.sleep(LEAVING_SECONDS))
    server.stop()
    await server.hear_out(LAST_WORDS_SECONDS)
    while time.monotonic() < deadline and (node.app.pipeline.running or server.has_unread()):  # noqa: ASYNC110 - two looks
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    with suppress(TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), CLOSE_SECONDS)


def announce(
    url: str, settings: Settings, directory: DataDirectory, first_start: FirstStart
) -> None:
    """Say where the server listens, and what was made for its first start."""
    log.info("server.listening", url=url, data_dir=str(settings.data_dir))
    if first_start.admin_password is not None:
        # The one time that this password is anywhere but in its owner's hands; not through the log.
        print(f"User `admin` was made, its password is: {first_start.admin_password}", flush=True)  # noqa: T201
    if first_start.operator_key is not None:
        print(f"The operator's API key is in {directory.operator_key_path}", flush=True)  # noqa: T201
