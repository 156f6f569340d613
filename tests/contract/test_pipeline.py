"""One request through the pipeline, on a real socket; every answer is judged by the referee."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import orjson
import pytest
import structlog.testing

from hive.raw_json import RawJson
from server.answers import SECURITY_HEADERS, encode_json
from server.referee import Referee
from server.rest import RestHandler
from tests.contract.running import Credentials, bind_small, serve_small
from tests.servers import eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What was logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_the_arguments_reach_the_handler_and_its_answer_the_client(
    client: httpx.AsyncClient,
) -> None:
    """Query and header parameters, typed; defaults where nothing came."""
    answer = await client.get(
        "/things?limit=5&tag=a&tag=%C3%A9+b&ids=1,2&deep=true", headers={"Idempotency-Key": "k"}
    )
    assert answer.json() == {
        "limit": 5, "ratio": None, "deep": True, "kind": None, "tag": ["a", "é b"],
        "ids": [1, 2], "from": None, "key": "k",
    }  # fmt: skip


async def test_a_creation_answers_the_contracts_status_and_the_handlers_headers(
    client: httpx.AsyncClient,
) -> None:
    """201 is of the contract, Location of the handler, the free-form bytes of the client."""
    raw = b'{ "$x" :1e5,"a.b":9.0, "\\u0000":null, "":"\\u0041" }'
    body = b'{"name":"n","parameters":' + raw + b"}"
    answer = await client.post("/things", content=body, headers=JSON)
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/things/thg_1"
    assert answer.content.endswith(b'"parameters":' + raw + b"}")
    assert answer.json()["created_at"] == "2026-11-21T09:00:00.000Z"


async def test_an_answer_without_content_has_none(client: httpx.AsyncClient) -> None:
    """204, and an optional body may stay away, be empty or be there."""
    for content in (None, b"", b"{}"):
        answer = await client.request("DELETE", "/things/a", content=content, headers=JSON)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("kind", "status", "code", "headers"),
    [
        ("malformed", 400, "contract-mismatch", {}),
        ("unauthenticated", 401, "invalid-credentials", {"WWW-Authenticate": "Bearer"}),
        ("forbidden", 403, "forbidden", {}),
        ("not-found", 404, "task-not-found", {}),
        ("conflict", 409, "lease-lost", {}),
        ("trimmed", 410, "log-trimmed", {}),
        ("invalid", 422, "invalid", {}),
        ("unavailable", 503, "unavailable", {"Retry-After": "7"}),
        ("unexpected", 500, "internal", {}),
    ],
)
async def test_a_condition_becomes_a_problem(
    client: httpx.AsyncClient, kind: str, status: int, code: str, headers: dict[str, str]
) -> None:
    """One table gives the status; what is internal is not told."""
    answer = await client.get(f"/open/raise/{kind}?")
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["instance"] == f"/open/raise/{kind}"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert headers.items() <= dict(answer.headers).items() | {
        (name, answer.headers[name]) for name in headers
    }
    for secret in ("canary", "Traceback", ".py", "RuntimeError"):
        assert secret not in answer.text


async def test_an_unexpected_exception_is_logged_under_its_request_id(
    client: httpx.AsyncClient, logged: list[Any]
) -> None:
    """The operator finds the cause by the identifier that the client was told."""
    answer = await client.get("/open/raise/unexpected", headers={"X-Request-Id": "req_of-mine.1"})
    assert answer.json()["request_id"] == "req_of-mine.1"
    (failed,) = [line for line in logged if line["event"] == "request failed"]
    assert failed["request_id"] == "req_of-mine.1"
    assert "canary-internal" in str(failed["exc_info"])


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "é", "a;b", '"'])
async def test_an_odd_request_id_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    """Only 64 plain characters are taken over."""
    answer = await client.get("/open", headers=[(b"X-Request-Id", given.encode())])
    assert answer.headers["X-Request-Id"].startswith("req_")


async def test_each_request_is_one_line_in_the_access_log(
    client: httpx.AsyncClient, logged: list[Any]
) -> None:
    """Who, what, from where, outcome, duration; never the query, which may hold a secret."""
    await client.get("/things/abc?token=canary-secret")
    (line,) = [line for line in logged if line["event"] == "request"]
    assert line["method"] == "GET"
    assert line["path"] == "/things/{thing_id}"
    assert line["status"] == 400
    assert line["operation"] == "get_thing"
    assert line["principal"] == "usr_0"
    assert line["address"] == "127.0.0.1"
    assert line["duration_ms"] > 0
    assert "canary" not in str(logged)


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "Not authenticated"),
        ("Bearer expired", "Token expired"),
        ("Bearer nobody", "Invalid token"),
        ("Bearer", "Invalid token"),
        ("Bearer a b", "Invalid token"),
        ("Bearer a,Bearer b", "Invalid token"),
        ("Basic YWRtaW46YWRtaW4=", "Invalid token"),
        ("everything", "Invalid token"),
        ("", "Invalid token"),
        ("Bearer " + "a" * 8193, "Invalid token"),
    ],
)
async def test_a_request_that_proves_nobody_is_401(
    referee: Referee, header: str | None, detail: str
) -> None:
    """The detail has the words of the original contract; WWW-Authenticate is there."""
    headers = {} if header is None else {"Authorization": header}
    async with serve_small() as (_, base), httpx.AsyncClient(base_url=base) as client:
        answer = await client.get("/things", headers=headers)
    referee.check_httpx(answer)
    assert (answer.status_code, answer.json()["detail"]) == (401, detail)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_two_credentials_are_none() -> None:
    """Nobody could say which one counts."""
    async with serve_small() as (_, base), httpx.AsyncClient(base_url=base) as client:
        answer = await client.get(
            "/things", headers=[("Authorization", "Bearer a"), ("Authorization", "Bearer admin")]
        )
    assert answer.json()["detail"] == "Invalid token"


async def test_a_public_operation_asks_nobody() -> None:
    """A credential that is sent along is not looked at."""
    async with serve_small() as (app, base), httpx.AsyncClient(base_url=base) as client:
        answer = await client.get("/open", headers={"Authorization": "Bearer nobody"})
        assert isinstance(app.pipeline.authenticator, Credentials)
        assert app.pipeline.authenticator.asked == []
    assert answer.json() == {"address": "127.0.0.1", "name": None}


async def test_a_role_without_the_permission_is_403_before_its_request_is_read(
    client: httpx.AsyncClient,
) -> None:
    """A viewer learns nothing of the shape that the body should have."""
    headers = {"Authorization": "Bearer viewer"}
    answer = await client.post("/things", content=b"{", headers=headers | JSON)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json, text/plain"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "deflate"},
    ],
)
async def test_another_media_type_is_415(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Charsets and content codings count, too."""
    answer = await client.post("/things", content=b'{"name":"n"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "APPLICATION/JSON", "application/json; charset=UTF-8",
     'application/json;charset="utf-8"', "application/json; q=1"],
)  # fmt: skip
async def test_json_under_its_spellings_is_read(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """Media types are case-insensitive."""
    headers = {"Content-Type": content_type}
    assert (await client.post("/things", content=b'{"name":"n"}', headers=headers)).is_success


async def test_a_missing_body_and_one_too_many_are_400(client: httpx.AsyncClient) -> None:
    """The contract says which operations take a body."""
    assert (await client.post("/things", headers=JSON)).status_code == 400
    answer = await client.request("GET", "/things", content=b"{}", headers=JSON)
    assert answer.status_code == 400


async def test_a_fixed_path_wins_over_a_template(client: httpx.AsyncClient) -> None:
    """`latest` is not an identifier."""
    assert (await client.get("/things/latest")).json() == {"latest": True}


@pytest.mark.parametrize(
    ("written", "read"),
    [("a%20b", "a b"), ("%C3%A9", "é"), ("a+b", "a+b"), ("a%2Bb", "a+b"), ("%2525", "%25")],
)
async def test_path_parameters_are_decoded_once(
    client: httpx.AsyncClient, written: str, read: str
) -> None:
    """A plus is a plus in a path."""
    assert (await client.get(f"/things/{written}")).json()["thing_id"] == read


async def test_every_answer_has_the_security_headers(client: httpx.AsyncClient) -> None:
    """Whatever the status, and no `Server`."""
    answers = [
        await client.request(method, path, content=body)
        for method, path, body in (
            ("GET", "/open", None), ("GET", "/nope", None), ("PUT", "/things", None),
            ("TRACE", "/things", None), ("PROPFIND", "/nope", None), ("GET", "/things/", None),
            ("HEAD", "/open", None), ("OPTIONS", "/things", None), ("POST", "/things", b"x"),
            ("POST", "/things", b"x" * 1_048_577), ("GET", "/open/raise/unexpected", None),
            ("DELETE", "/things/a", None), ("GET", "/open?" + "x" * 8192, None),
        )
    ]  # fmt: skip
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 404, 405, 405, 404, 307, 200, 405, 415, 413, 500, 204, 414]
    for answer in answers:
        assert SECURITY_HEADERS.items() <= {
            (name, answer.headers.get(name)) for name in SECURITY_HEADERS
        }
        assert "Server" not in answer.headers
        assert answer.headers["X-Request-Id"]


async def test_a_redirect_never_leaves_the_host() -> None:
    """`//evil.example/things/` is no path of ours."""
    async with serve_small() as (_, base), httpx.AsyncClient(base_url=base) as client:
        for target in (b"//evil.example/things/", b"/\\evil.example/", b"//evil.example//"):
            answer = await client.get("/", extensions={"target": target})
            assert answer.status_code == 404
            assert "Location" not in answer.headers


async def test_forwarded_addresses_count_from_trusted_proxies_only() -> None:
    """The same address for limits, audit and handlers."""
    forwarded = {"X-Forwarded-For": "1.2.3.4, 198.51.100.7", "X-Real-IP": "9.9.9.9"}
    for trusted, address in (((), "127.0.0.1"), (("127.0.0.0/8",), "198.51.100.7")):
        async with (
            serve_small(trusted_proxies=trusted) as (_, base),
            httpx.AsyncClient(base_url=base) as client,
        ):
            answer = await client.get("/open", headers=forwarded)
        assert answer.json()["address"] == address


async def test_a_client_that_goes_away_cancels_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs to its end, and the pipeline counts it out."""
    started, gone, go_on, ended = (asyncio.Event() for _ in range(4))
    notice = RestHandler.on_connection_close

    def noticed(handler: RestHandler) -> None:
        notice(handler)
        gone.set()

    async def slow(context: Any) -> dict[str, Any]:
        started.set()
        await go_on.wait()
        ended.set()
        return {}

    monkeypatch.setattr(RestHandler, "on_connection_close", noticed)
    bound = bind_small()
    monkeypatch.setitem(bound, "get_open", replace(bound["get_open"], function=slow))
    async with serve_small() as (app, base):
        host, port = base.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.wait_for(started.wait(), 5)
            assert app.pipeline.running == 1
        finally:
            writer.transport.abort()
        await asyncio.wait_for(gone.wait(), 5)
        go_on.set()
        await asyncio.wait_for(ended.wait(), 5)
        await eventually(lambda: app.pipeline.running == 0, "the request is counted out")


async def test_the_referee_in_the_server_finds_an_undeclared_field(
    referee: Referee, logged: list[Any]
) -> None:
    """500 `contract-violation` for the client, the cause in the log."""
    headers = {"Authorization": "Bearer everything"}
    async with (
        serve_small(referee=referee) as (_, base),
        httpx.AsyncClient(base_url=base, headers=headers) as client,
    ):
        assert (await client.get("/things/declared")).status_code == 200
        answer = await client.get("/things/undeclared")
    assert (answer.status_code, answer.json()["code"]) == (500, "contract-violation")
    assert "secret" not in answer.text
    (refused,) = [line for line in logged if line["event"] == "request refused"]
    assert refused["log_level"] == "error"
    assert "'secret' was unexpected" in refused["reason"].replace("\\", "")


def test_json_is_written_in_one_way() -> None:
    """Times in UTC with milliseconds; raw JSON as it came; what is not JSON is an error."""
    east = timezone(timedelta(hours=2))
    value = {
        "at": datetime(2026, 11, 21, 11, 0, 0, 123456, tzinfo=east),
        "raw": RawJson(b'{ "a":1.0 }'),
        "utc": datetime(2026, 11, 21, 9, tzinfo=UTC),
    }
    assert encode_json(value) == (
        b'{"at":"2026-11-21T09:00:00.123Z","raw":{ "a":1.0 },"utc":"2026-11-21T09:00:00.000Z"}'
    )
    for odd in (datetime(2026, 1, 1), object(), Credentials()):  # noqa: DTZ001
        with pytest.raises(orjson.JSONEncodeError):
            encode_json(odd)
