"""Content codings: the client chooses, secrets are never compressed, nobody waits for others."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import brotli
import httpx
import pytest
import pytest_asyncio
from tornado.httputil import HTTPHeaders

from server.answers import Answer
from server.compression import CODINGS, IN_LOOP_BYTES, MIN_BYTES, Compression, choose_coding
from tests.api.running import Api, RunningNode
from tests.contracts import our_contract

CONTRACT = our_contract()
AGENTS = CONTRACT.operations["list_agents"]
LOGIN = CONTRACT.operations["login"]
JSON = "application/json"
# The standard library's from Python 3.14 on.
ZSTD = importlib.import_module(
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
)
UNPACK = {"zstd": ZSTD.decompress, "br": brotli.decompress, "gzip": gzip.decompress}
ROWS = [{"agent_id": f"agt_{n}", "status": "idle", "labels": {"zone": "a"}} for n in range(2_000)]


@pytest.fixture
def compression() -> Iterator[Compression]:
    """With its threads."""
    made = Compression()
    yield made
    made.close()


def body(size: int) -> bytes:
    """So many bytes of JSON."""
    text = json.dumps(ROWS * (1 + size // 100_000)).encode()
    return text[:size]


def accepting(*fields: str) -> HTTPHeaders:
    """A request with these lines of Accept-Encoding."""
    headers = HTTPHeaders()
    for field in fields:
        headers.add("Accept-Encoding", field)
    return headers


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", None),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip; q=0.2 , br ;q=0.3", "br"),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=0, br", "br"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "br"),
        ("gzip, *;q=0", "gzip"),
        ("gzip;q=0.5, *;q=0.7", "zstd"),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=0.1234", None),
        ("gzip;level=9", None),
        (",, gzip ,,", "gzip"),
        ("g zip, br;q=-1, \x00", None),
        ("gzip;q=0, gzip", None),
        ("a," * 4_000 + "gzip", "gzip"),
    ],
)
def test_the_coding_is_what_the_client_likes_best(field: str, coding: str | None) -> None:
    """RFC 9110, section 12.5.3; what can't be read counts as not said."""
    assert choose_coding(field) == coding


def test_no_field_makes_reading_slow() -> None:
    """16 KiB of anything are read in a moment."""
    began = time.thread_time()
    for field in ("a" * 16_000, "a;" * 8_000, " " * 16_000, "gzip;q=" * 2_000, "," * 16_000):
        choose_coding(field)
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [MIN_BYTES, IN_LOOP_BYTES + 1])
async def test_what_is_unpacked_is_what_was_answered(
    compression: Compression, coding: str, size: int
) -> None:
    """Byte for byte, smaller, and named; the validator is one of these bytes."""
    answer = Answer(200, {"ETag": '"1.ab"', "Vary": "Origin"}, body(size), JSON)
    sent = await compression.compress(AGENTS, accepting("deflate", coding), answer)
    assert UNPACK[coding](sent.body) == answer.body
    assert len(sent.body) < len(answer.body) / 2
    assert sent.headers == {
        "Content-Encoding": coding,
        "ETag": f'"1.ab-{coding}"',
        "Vary": "Origin, Accept-Encoding",
    }
    assert (sent.status, sent.content_type) == (200, JSON)


@pytest.mark.parametrize(
    ("answer", "varies"),
    [
        (Answer(200, {}, body(MIN_BYTES - 1), JSON), False),
        (Answer(200, {}, body(4_000), "image/png"), False),
        (Answer(200, {"Content-Encoding": "gzip"}, body(4_000), JSON), False),
        (Answer(400, {}, body(4_000), "application/problem+json"), False),
        (Answer(204, {}, b"", None), False),
        (Answer(304, {"ETag": '"1.ab-gzip"'}, b"", None), True),
    ],
    ids=["small", "no text", "coded already", "a problem", "nothing", "not modified"],
)
async def test_some_answers_are_sent_as_they_are(
    compression: Compression, answer: Answer, *, varies: bool
) -> None:
    """Only an answer that could be compressed varies; 304 has the tag that it has."""
    sent = await compression.compress(AGENTS, accepting("gzip"), answer)
    assert sent.body == answer.body
    expected = {**answer.headers, **({"Vary": "Accept-Encoding"} if varies else {})}
    assert sent.headers == expected


async def test_what_could_be_compressed_varies_for_those_who_did_not_ask(
    compression: Compression,
) -> None:
    """Else a cache would give one client's coding to another."""
    answer = Answer(200, {}, body(4_000), JSON)
    sent = await compression.compress(AGENTS, accepting(), answer)
    assert (sent.body, sent.headers) == (answer.body, {"Vary": "Accept-Encoding"})


async def test_what_does_not_get_smaller_is_sent_as_it_is(compression: Compression) -> None:
    """Random bytes grow."""
    answer = Answer(200, {}, random.Random(7).randbytes(4_000), JSON)
    for coding in CODINGS:
        sent = await compression.compress(AGENTS, accepting(coding), answer)
        assert (sent.body, sent.headers) == (answer.body, {"Vary": "Accept-Encoding"})


async def test_secrets_are_never_compressed(compression: Compression) -> None:
    """The length of a compressed answer tells what is in it (BREACH)."""
    answer = Answer(200, {}, body(4_000), JSON)
    assert await compression.compress(LOGIN, accepting("gzip", "br"), answer) == answer


async def test_what_is_large_keeps_the_loop_free(
    compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte is compressed in a thread: this one ends only because the loop goes on."""
    go_on = threading.Event()

    def encode(_: bytes) -> bytes:
        return b"free" if go_on.wait(10) else b"blocked"

    monkeypatch.setattr("server.compression.CODINGS", {"gzip": encode})
    answer = Answer(200, {}, body(1_000_000), JSON)
    sending = asyncio.create_task(compression.compress(AGENTS, accepting("gzip"), answer))
    await asyncio.sleep(0)
    go_on.set()
    assert (await sending).body == b"free"


async def test_what_is_large_and_has_a_validator_is_compressed_once(
    compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag stands for its bytes; another tag and another coding are others."""
    coded: list[str] = []

    def counting(coding: str) -> Any:
        real = CODINGS[coding]

        def encode(given: bytes) -> bytes:
            coded.append(coding)
            return real(given)

        return encode

    codings: Mapping[str, Any] = {coding: counting(coding) for coding in CODINGS}
    monkeypatch.setattr("server.compression.CODINGS", codings)
    one = Answer(200, {"ETag": '"1"'}, body(100_000), JSON)
    other = Answer(200, {"ETag": '"2"'}, body(100_001), JSON)
    sent = [
        await compression.compress(AGENTS, accepting(coding), answer)
        for answer, coding in ((one, "br"), (one, "br"), (other, "br"), (one, "gzip"), (one, "br"))
    ]
    assert coded == ["br", "br", "gzip"]
    assert sent[0] == sent[1] == sent[4]
    assert brotli.decompress(sent[2].body) == other.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(node: RunningNode) -> Api:
    """The admin of a hive with some agents."""
    api = await node.log_in("admin")
    for _ in range(6):
        await node.add_agent(api, labels={"zone": "a"})
    return api


async def raw(api: Api, method: str, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """An answer, and its bytes as they came."""
    given = {"Accept-Encoding": "identity", **headers}
    async with api.stream(method, path, headers=given) as response:
        return response, b"".join([part async for part in response.aiter_raw()])


@pytest.fixture(scope="module")
def plain(node: RunningNode, admin: Api) -> Api:
    """The admin, reading bytes as they come."""
    return node.client(admin.credential, judged=False)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("coding", UNPACK)
@pytest.mark.parametrize(
    "path", ["/api/v1/agents", "/openapi.yaml", "/asyncapi.json", "/api/v1/audit/export"]
)
async def test_every_coding_of_an_answer_is_the_same_answer(
    plain: Api, path: str, coding: str
) -> None:
    """Lists, contracts and the export of records."""
    response, encoded = await raw(plain, "GET", path, **{"Accept-Encoding": coding})
    assert response.status_code == 200
    assert response.headers["Content-Encoding"] == coding
    assert "Accept-Encoding" in response.headers["Vary"]
    assert int(response.headers["Content-Length"]) == len(encoded)
    unpacked = UNPACK[coding](encoded)
    _, identity = await raw(plain, "GET", path)
    if path.endswith("export"):
        # Each request adds a record.
        assert identity.splitlines()[: len(unpacked.splitlines())] == unpacked.splitlines()
    else:
        assert identity == unpacked


@pytest.mark.asyncio(loop_scope="module")
async def test_head_says_what_get_says(plain: Api) -> None:
    """The same fields, the length of the coded bytes, and no body."""
    got, encoded = await raw(plain, "GET", "/api/v1/agents", **{"Accept-Encoding": "br"})
    head, nothing = await raw(plain, "HEAD", "/api/v1/agents", **{"Accept-Encoding": "br"})
    assert (head.status_code, nothing) == (200, b"")
    for name in ("Content-Encoding", "Content-Length", "Content-Type", "ETag", "Vary"):
        assert head.headers[name] == got.headers[name]
    assert int(head.headers["Content-Length"]) == len(encoded)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("asked", ["gzip", "identity"])
async def test_a_coded_answer_is_validated_by_its_own_tag(plain: Api, asked: str) -> None:
    """The suffix of the coding makes a tag of its own, which is understood and sent again."""
    got, _ = await raw(plain, "GET", "/openapi.json", **{"Accept-Encoding": "gzip"})
    tag = got.headers["ETag"]
    assert tag.endswith('-gzip"')
    fields = {"Accept-Encoding": asked, "If-None-Match": tag}
    again, nothing = await raw(plain, "GET", "/openapi.json", **fields)
    assert (again.status_code, nothing, again.headers["ETag"]) == (304, b"", tag)
    assert "Accept-Encoding" in again.headers["Vary"]
    assert "Content-Encoding" not in again.headers


@pytest.mark.asyncio(loop_scope="module")
async def test_the_answer_to_a_login_is_not_compressed(node: RunningNode) -> None:
    """Nor does it say that it could be."""
    client = node.client(judged=False)
    response = await client.post(
        "/api/v1/auth/login",
        json={"username": "admin", "password": "correct horse battery staple"},
        headers={"Accept-Encoding": "gzip, br, zstd"},
    )
    assert response.status_code == 200
    assert "Content-Encoding" not in response.headers
    assert "Accept-Encoding" not in response.headers.get("Vary", "")


@pytest.mark.asyncio(loop_scope="module")
async def test_nobody_is_refused_for_what_they_accept(plain: Api) -> None:
    """`identity` is always to be had, also where it is excluded."""
    for field in ("identity;q=0", "*;q=0", "nonsense;;;", "gzip;q=0, identity;q=0"):
        response, encoded = await raw(plain, "GET", "/api/v1/agents", **{"Accept-Encoding": field})
        assert response.status_code == 200
        assert json.loads(encoded)
