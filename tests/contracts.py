"""Our contracts, read once for all tests of a process: it takes half a second."""

from __future__ import annotations

from functools import cache

from server.binding import bind
from server.bootstrap import Interface
from server.contract import Contract
from server.resources import asyncapi_path, openapi_path


@cache
def our_contract() -> Contract:
    """Both of them; nobody changes what is in it."""
    return Contract.load(openapi_path(), asyncapi_path())


@cache
def our_interface() -> Interface:
    """The operations that are bound to them."""
    return Interface(our_contract(), bind(our_contract()))
