"""A server that stops to listen answers those who were let in by the kernel."""

from __future__ import annotations

import asyncio
import socket

from tornado.web import Application, RequestHandler

from server.app import make_http_server
from server.bootstrap import listen
from tests.servers import eventually

CLIENTS = 5


class _Here(RequestHandler):
    def get(self) -> None:
        """Answer."""
        self.finish("here")


async def test_who_waits_in_the_queue_is_answered() -> None:
    """Their connections stand, and a request may be on its way: closing would reset them."""
    server = make_http_server(Application([("/", _Here)]))
    port = int(listen(server, "127.0.0.1", 0).rpartition(":")[2])
    waiting = []
    for _ in range(CLIENTS):
        # The loop does not run meanwhile: the kernel alone lets them in.
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.settimeout(0)
        waiting.append(client)
    server.stop()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(10):
            for client in waiting:
                assert (await loop.sock_recv(client, 4_096)).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in waiting:
            client.close()
        await server.close_all_connections()


async def test_who_is_still_connected_is_heard_out() -> None:
    """A connection that was made and not used yet: its request is answered, and ends the wait."""
    server = make_http_server(Application([("/", _Here)]))
    port = int(listen(server, "127.0.0.1", 0).rpartition(":")[2])
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(0)
        server.stop()
        async with asyncio.timeout(30):
            hearing = asyncio.create_task(server.hear_out(1_000))
            await eventually(lambda: server.counts.total == 1, "it is connected")
            assert not hearing.done()
            assert not server.has_unread()
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert server.has_unread()
            assert (await loop.sock_recv(client, 4_096)).startswith(b"HTTP/1.1 200 ")
            await hearing
    await server.close_all_connections()


async def test_who_says_nothing_is_not_waited_for_for_ever() -> None:
    """Idle connections are closed when the time is over."""
    server = make_http_server(Application([("/", _Here)]))
    port = int(listen(server, "127.0.0.1", 0).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        server.stop()
        await server.hear_out(0.05)
        assert server.counts.total == 1
        await server.close_all_connections()
        assert server.counts.total == 0
