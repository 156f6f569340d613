"""A server that answers with the contract's own examples, for teams that write clients.

Connexion validates the requests and picks the example of the first success response. Any bearer
token is accepted where the contract asks for one, and none is answered with 401.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import yaml

from server import resources


class MockUnavailable(Exception):
    """The extra `mock` is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "The mock server needs Connexion: pip install 'agentzero-api[mock]' "
            "(`make setup` installs it)."
        )


def accept_any_token(token: str) -> dict[str, str]:
    """What the mock server believes of every bearer token."""
    return {"sub": "mock", "scope": token}


def make_mock_app(contract: Path) -> Any:
    """An ASGI application for the contract; raises `MockUnavailable`."""
    try:
        with warnings.catch_warnings():
            # It imports a test client that Starlette is about to give another base.
            warnings.simplefilter("ignore")
            from connexion import AsyncApp  # noqa: PLC0415 - an extra
            from connexion.mock import MockResolver  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MockUnavailable from error

    class ExampleResolver(MockResolver):  # type: ignore[misc]  # It has no types.
        """Names the media type of the example: operations answer errors in a second one."""

        def mock_operation(self, operation: Any, *_: Any, **__: Any) -> Any:
            body, status = operation.example_response()
            content = operation.responses[str(status)].get("content", {})
            headers = {"Content-Type": next(iter(content))} if content else {}
            return body, status, headers

    specification = yaml.safe_load(contract.read_text(encoding="utf-8"))
    schemes = specification.get("components", {}).get("securitySchemes", {})
    for scheme in schemes.values():
        if scheme.get("type") == "http" and scheme.get("scheme") == "bearer":
            scheme["x-bearerInfoFunc"] = f"{__name__}.{accept_any_token.__name__}"
    app = AsyncApp(__name__)
    app.add_api(specification, resolver=ExampleResolver(mock_all=True), strict_validation=True)
    return app


def serve_mock(host: str, port: int) -> None:
    """Serve the contract's examples until interrupted."""
    make_mock_app(resources.openapi_path()).run(host=host, port=port)
