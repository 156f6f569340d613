"""The one composition point: the only package of the server that knows `storage`.

serving.serve: data directory (lock) -> mongod -> open_node -> listen -> until SIGTERM -> drain
node.open_node: identities.py + stores.py -> audit trail -> duties -> services -> application
workers.serve_workers: the same for several nodes of one machine, as processes of their own
commands.py: what the command line opens beside a server, or while none runs
"""

from __future__ import annotations

from server.bootstrap.commands import (
    open_signing_keys,
    open_system_settings,
    open_token_keys,
    open_users,
    open_verification,
)
from server.bootstrap.identities import ISSUER
from server.bootstrap.node import Interface, Node, bind_interface, open_node
from server.bootstrap.serving import drain, listen, serve
from server.bootstrap.stores import STORE_TIMES, Store
from server.bootstrap.workers import serve_workers

__all__ = [
    "ISSUER",
    "STORE_TIMES",
    "Interface",
    "Node",
    "Store",
    "bind_interface",
    "drain",
    "listen",
    "open_node",
    "open_signing_keys",
    "open_system_settings",
    "open_token_keys",
    "open_users",
    "open_verification",
    "serve",
    "serve_workers",
]
