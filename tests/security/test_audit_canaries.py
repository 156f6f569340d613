"""Bar I5: secrets stay out of logs, audit and errors, wherever they are put; logs stay lines."""

from __future__ import annotations

import json
import secrets
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from bson import json_util
from pymongo import MongoClient
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from hive.secrets import API_KEY, REFRESH_TOKEN, WS_TICKET
from server.contract import Operation
from server.embedded import EmbeddedMongo
from tests.contracts import our_contract
from tests.servers import ServerProcess, wait_until

PASSWORD = f"canary {uuid.uuid4().hex}"
SECRET_MEMBERS = frozenset({"access_token", "refresh_token", "api_key", "ticket", "secret"})
PLANTED_HEADERS = (
    "Cookie",
    "Referer",
    "Signature",
    "Signature-Input",
    "Content-Digest",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-Forwarded-For",
    "X-Api-Key",
    "Proxy-Authorization",
)
UNTOUCHED = frozenset({"logout"})
"""What would end the session that the other calls need."""


@dataclass
class Canaries:
    """Every secret that was ever sent or given out; `typed` has no form that could be known."""

    typed: str = field(default_factory=lambda: f"canary-{uuid.uuid4().hex}")
    formed: tuple[str, ...] = field(
        default_factory=lambda: tuple(
            kind.encode(secrets.token_bytes(kind.entropy_bytes))
            for kind in (API_KEY, REFRESH_TOKEN, WS_TICKET)
        )
    )
    given: set[str] = field(default_factory=set)

    def found_in(self, text: str) -> set[str]:
        """Those that stand in the text."""
        return {one for one in (self.typed, PASSWORD, *self.formed, *self.given) if one in text}

    def learn(self, body: Any) -> None:
        """Take the secrets of an answer."""
        if isinstance(body, list):
            for item in body:
                self.learn(item)
        elif isinstance(body, dict):
            for name, value in body.items():
                if name in SECRET_MEMBERS and isinstance(value, str) and len(value) > 8:
                    self.given.add(value)
                self.learn(value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose logs are JSON lines in a file."""
    directory = tmp_path_factory.mktemp("canaries")
    process = ServerProcess(
        directory / "var",
        RATE_LIMIT_ENABLED="false",
        ADMIN_PASSWORD=PASSWORD,
        LOG_LEVEL="debug",
    )
    process.start()
    yield process
    process.kill()


def planted(value: Any, canary: str) -> Any:
    """The value with every text replaced by the canary."""
    if isinstance(value, Mapping):
        return {name: planted(item, canary) for name, item in value.items()}
    if isinstance(value, list):
        return [planted(item, canary) for item in value]
    return canary if isinstance(value, str) else value


def example_of(operation: Operation) -> Any:
    """A body as the contract shows it."""
    media = operation.document.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [one.get("value") for one in media.get("examples", {}).values()]
    return media.get("example", examples[0] if examples else {})


def plant(
    client: httpx.Client,
    operation: Operation,
    canary: str,
    *,
    odd: str,
    authorization: str | None,
    in_query: bool = True,
) -> httpx.Response:
    """Call an operation with the canary in each place; `odd` where the audit log keeps a text.

    That is the User-Agent and the request's identifier, and a path that is not looked at.
    """
    path = operation.path
    query: dict[str, str] = {"token": canary, "access_token": canary} if in_query else {}
    for parameter in operation.parameters:
        if parameter.location == "path":
            path = path.replace(f"{{{parameter.name}}}", odd if in_query else canary)
        elif parameter.location == "query" and in_query:
            query[parameter.name] = canary
    headers = dict.fromkeys(PLANTED_HEADERS, canary) | {"User-Agent": odd, "X-Request-Id": odd}
    if authorization is not None:
        headers["Authorization"] = authorization
    body = planted(example_of(operation), canary)
    options: dict[str, Any] = {} if operation.body is None else {"json": body}
    return client.request(operation.method, path, params=query, headers=headers, **options)


def test_secrets_in_every_place_of_every_operation_stay_there(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Body, query, path, headers, sockets; as an administrator, as nobody, and with each secret."""
    canaries = Canaries()
    running = server.data.find_running_server()
    operator = server.data.find_operator_key()
    assert running is not None
    assert operator is not None
    canaries.given.add(operator)
    errors: list[str] = []
    contract = our_contract()
    with httpx.Client(base_url=running.url, trust_env=False, timeout=20) as client:
        admin = {"Authorization": f"Bearer {operator}"}
        use_secrets_rightly(client, canaries, admin)
        for operation in contract.operations.values():
            if operation.operation_id in UNTOUCHED or operation.tag == "contracts":
                continue
            for authorization in (admin["Authorization"], f"Bearer {canaries.typed}", None):
                answer = plant(
                    client,
                    operation,
                    canaries.typed,
                    odd=canaries.formed[0],
                    authorization=authorization,
                )
                if answer.status_code >= 400:
                    errors.append(f"{operation.operation_id}: {answer.headers} {answer.text}")
            # Without the query, which is refused first, the path and the body are looked at.
            answer = plant(
                client,
                operation,
                canaries.typed,
                odd=canaries.formed[0],
                authorization=admin["Authorization"],
                in_query=False,
            )
            assert answer.status_code != 500, answer.text
            for formed in canaries.formed:
                answer = plant(
                    client, operation, formed, odd=formed, authorization=f"Bearer {formed}"
                )
                errors.append(f"{operation.operation_id}: {answer.headers} {answer.text}")
        plant_in_sockets(running.url, canaries)
        for text in errors:
            assert not canaries.found_in(text), text
        audit = audit_text(server, client, admin)
    assert not canaries.found_in(audit), "a secret is in the audit log"
    logged = server.log_path.read_text("utf-8")
    assert logged.count('"event": "request"') > 100
    for line in logged.splitlines():
        assert not canaries.found_in(line), line


def use_secrets_rightly(client: httpx.Client, canaries: Canaries, admin: Mapping[str, str]) -> None:
    """Log in, refresh, make keys and tickets: what is given out is looked for, too."""
    credentials = {"username": "admin", "password": PASSWORD}
    tokens = client.post("/api/v1/auth/login", json=credentials)
    assert tokens.status_code == 200, tokens.text
    canaries.learn(tokens.json())
    refreshed = client.post(
        "/api/v1/auth/refresh", json={"refresh_token": tokens.json()["refresh_token"]}
    )
    canaries.learn(refreshed.json())
    bearer = {"Authorization": f"Bearer {refreshed.json()['access_token']}"}
    for path, body in (
        ("/api/v1/api-keys", {"name": "canary"}),
        ("/api/v1/agents", {"name": "canary"}),
        ("/api/v1/signing-keys", {"name": "canary", "algorithm": "hmac-sha256"}),
        ("/api/v1/auth/ws-ticket", {}),
    ):
        answer = client.post(path, json=body, headers=bearer)
        canaries.learn(answer.json())
    assert len(canaries.given) >= 6, "too few secrets were given out to prove anything"
    wrong = {"username": canaries.typed, "password": canaries.typed}
    client.post("/api/v1/auth/login", json=wrong)
    client.get("/api/v1/tasks", headers={**admin, "User-Agent": canaries.formed[1]})


def plant_in_sockets(url: str, canaries: Canaries) -> None:
    """In the query, the header, the subprotocol and the first frame."""
    base = url.replace("http", "ws", 1)
    for path in ("/ws", "/ws/agents/agt_01m7zzcy9we6nrxfnm00kd253j"):
        for canary in (canaries.typed, *canaries.formed):
            attempts: list[dict[str, Any]] = [
                {"uri": f"{base}{path}?token={canary}"},
                {"uri": f"{base}{path}?ticket={canary}"},
                {"uri": base + path, "additional_headers": {"Authorization": f"Bearer {canary}"}},
                {"uri": base + path},
            ]
            for attempt in attempts:
                try:
                    with connect(**attempt, proxy=None, close_timeout=1) as link:
                        link.send(json.dumps({"type": "connect", "id": canary, "token": canary}))
                        link.recv(timeout=5)
                except (WebSocketException, TimeoutError):
                    continue


def audit_text(server: ServerProcess, client: httpx.Client, admin: Mapping[str, str]) -> str:
    """Everything that the audit log has in its database, once all of it is there."""
    last = f"req-{uuid.uuid4().hex}"
    client.get("/api/v1/tasks", headers={**admin, "X-Request-Id": last})
    uri = EmbeddedMongo(server.data.mongo_path, server.data.mongo_log_path).uri
    with MongoClient[dict[str, Any]](uri) as mongo:
        audit = mongo["agentzero"]["audit"]
        wait_until(lambda: audit.find_one({"request_id": last}), "the last call is recorded")
        documents = list(audit.find())
    assert len(documents) > 100
    return json_util.dumps(documents, ensure_ascii=False)


HOSTILE = (
    b"\x1b[31mred",
    b"\x9b31m",
    b"\x85next",
    "\u2028line".encode(),
    b"\xff\xfe",
    b'"}\\n{"forged": true',
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_within_its_line(server: ServerProcess, hostile: bytes) -> None:
    """In the path, the agent's name, the request identifier: one JSON line, no control bytes."""
    running = server.data.find_running_server()
    assert running is not None
    parts = urlsplit(running.url)
    escaped = "".join(f"%{byte:02x}" for byte in hostile).encode()
    mark = uuid.uuid4().hex
    request = b"\r\n".join(
        (
            b"GET /api/v1/" + mark.encode() + escaped + b"%0d%0aforged?x=" + escaped + b" HTTP/1.1",
            b"Host: localhost",
            b"User-Agent: " + hostile,
            b"X-Request-Id: " + hostile,
            b"Connection: close",
            b"\r\n",
        )
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as link:
        link.sendall(request)
        while link.recv(65_536):
            pass
    # Some of it is no HTTP at all, and is refused before there is a request.
    httpx.get(f"{running.url}/api/v1/{mark}/last")
    wait_until(lambda: f"{mark}/last" in server.log_path.read_text("utf-8"), "all is logged")
    logged = server.log_path.read_bytes()
    for line in logged.splitlines():
        if line.startswith(b"The operator's API key is in "):
            continue  # Said to whoever started it, beside the log.
        event = json.loads(line)
        assert "forged" not in event
        assert not [byte for byte in line if byte < 0x20 or byte >= 0x7F], line
