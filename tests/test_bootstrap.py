"""What stops a start-up says so."""

from __future__ import annotations

import gc
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.bootstrap import listen
from server.settings import SettingsError


def _listen_in_vain() -> None:
    server: Any = SimpleNamespace(add_sockets=lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = cast("int", taken.getsockname()[1])
        with pytest.raises(SettingsError, match=rf"AGENTZERO_PORT.*127\.0\.0\.1:{port}"):
            listen(server, "127.0.0.1", port)


# Tornado leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket")
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_a_port_in_use_is_named() -> None:
    """Not a traceback, but the variables to change."""
    _listen_in_vain()
    gc.collect()
