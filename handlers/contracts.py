"""The contracts that this server keeps, as files."""

from __future__ import annotations

from handlers.context import Context, Reply


async def get_openapi_yaml(context: Context) -> Reply:
    """The REST contract, byte for byte."""
    return Reply(context.services.documents.read("openapi.yaml"))


async def get_openapi_json(context: Context) -> Reply:
    """The REST contract as JSON."""
    return Reply(context.services.documents.read("openapi.json"))


async def get_asyncapi_yaml(context: Context) -> Reply:
    """The WebSocket contract, byte for byte."""
    return Reply(context.services.documents.read("asyncapi.yaml"))


async def get_asyncapi_json(context: Context) -> Reply:
    """The WebSocket contract as JSON."""
    return Reply(context.services.documents.read("asyncapi.json"))
