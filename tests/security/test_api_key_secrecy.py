"""A8: API keys can't be guessed, a wrong one costs no database, and none is kept anywhere."""

from __future__ import annotations

import math
import random
import re
import secrets
import sqlite3
import string
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bson.json_util import dumps
from pymongo import MongoClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from hive.errors import InvalidToken
from hive.secrets import API_KEY, fingerprint
from server.api_keys import _new_secret
from tests.api.running import PASSWORD, Api, RunningNode, dropped_afterwards
from tests.identity.node import build
from tests.realtime.client import open_socket
from tests.servers import ServerProcess

PATH = "/api/v1/api-keys"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
FORM = re.compile(r"azk_([0-9A-Za-z]+)([0-9A-Za-z]{6})")
COUNTS = [
    20_000,
    pytest.param(100_000, marks=pytest.mark.more),
    pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What the database is asked meanwhile."""
    asked: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("count", COUNTS)
def test_no_two_keys_are_alike(count: int) -> None:
    """A prefix, 178 bits or more in base62, CRC-32 of both; what is kept of it is its SHA-256."""
    seen = set()
    for _ in range(count):
        key, kept = _new_secret(None)
        found = FORM.fullmatch(key)
        assert found is not None
        body, checksum = found.groups()
        assert math.log2(62) * len(body) >= 178
        number = 0
        for digit in checksum:
            number = 62 * number + BASE62.index(digit)
        assert number == zlib.crc32(f"azk_{body}".encode())
        assert key.startswith(kept.prefix)
        assert len(kept.prefix) == len("azk_") + 6
        assert kept.key_hash == fingerprint(key)
        seen.add(kept.key_hash)
    assert len(seen) == count


def guesses(count: int, genuine: str) -> Iterator[str]:
    """Random text of a key's form, keys with one error, and random text of no form."""
    chance = random.Random(8)
    length = len(genuine) - len("azk_")
    for number in range(count):
        if number % 4 == 0:
            yield "azk_" + "".join(chance.choices(BASE62, k=length))
        elif number % 4 == 1:
            at = chance.randrange(4, len(genuine))
            other = chance.choice(BASE62.replace(genuine[at], ""))
            yield genuine[:at] + other + genuine[at + 1 :]
        elif number % 4 == 2:
            key = API_KEY.encode(secrets.token_bytes(API_KEY.entropy_bytes))
            yield key[: chance.randrange(len(key))] if number % 8 == 2 else key + "0"
        else:
            yield "".join(chance.choices(string.printable, k=chance.randrange(80)))


@pytest.mark.parametrize("count", COUNTS)
async def test_a_wrong_key_costs_no_database(tmp_path: Path, count: int) -> None:
    """Every guess is refused without one statement; a right checksum costs exactly one."""
    node = build(f"sqlite:///{tmp_path / 'identities.sqlite3'}")
    genuine = API_KEY.encode(secrets.token_bytes(API_KEY.entropy_bytes))
    try:
        with statements(node.database.engine) as asked:
            for guess in guesses(count, genuine):
                with pytest.raises(InvalidToken):
                    await node.authenticator.authenticate(guess)
            assert asked == []
            with pytest.raises(InvalidToken):
                await node.authenticator.authenticate(genuine)
            assert sum(one.startswith("SELECT") for one in asked) == 1
    finally:
        await node.authenticator.close()
        node.passwords.close()
        node.database.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_wrong_keys_are_refused_alike_over_the_wire(node: RunningNode) -> None:
    """401 in the same words for a bad checksum and for a key that never was."""
    unknown = API_KEY.encode(secrets.token_bytes(API_KEY.entropy_bytes))
    engine = node.accounts._store._database.engine  # type: ignore[attr-defined] # SqlIdentity's.
    texts = set()
    api = node.client(headers={"X-Request-Id": "same"})

    async def refusal(key: str) -> str:
        response = await api.get("/api/v1/tasks", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 401
        return response.text

    with statements(engine) as asked:
        for guess in guesses(80, unknown):
            if re.fullmatch(r"[A-Za-z0-9._~+/-]+", guess):
                texts.add(await refusal(guess))
        assert [one for one in asked if "api_keys" in one and "expiry" not in one] == []
    assert texts == {await refusal(unknown)}


class Shown:
    """Collects the keys that were shown, and every answer that had no reason to show one."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.answers: list[str] = []

    async def issue(self, api: Api, path: str, **body: Any) -> dict[str, Any]:
        """Ask for something that shows a key, once."""
        answer = dict(await api.ok("POST", path, json=body))
        key = answer.pop("api_key")
        self.keys.append(key)
        self.answers.append(str(answer))
        return {**answer, "secret": key}

    async def send(self, api: Api, method: str, path: str, **request: Any) -> None:
        """Ask for anything else."""
        response = await api.request(method, path, **request)
        self.answers.append(f"{response.headers} {response.text}")


async def use(url: str, shown: Shown) -> None:
    """Make keys in all ways, use them rightly and wrongly, end them."""
    async with Api(url) as anonymous:
        credentials = {"username": "admin", "password": PASSWORD}
        tokens = await anonymous.ok("POST", "/api/v1/auth/login", json=credentials)
    async with Api(url, tokens["access_token"]) as admin:
        made = await shown.issue(admin, PATH, name="k", scopes=["events:read", "api-keys:write"])
        elsewhere = await shown.issue(admin, PATH, name="e", allowed_addresses=["192.0.2.0/24"])
        agent = await shown.issue(admin, "/api/v1/agents", name="worker")
        (agents,) = await admin.ok("GET", PATH, params={"owner": agent["agent_id"]})
        renewed = await shown.issue(admin, f"{PATH}/{agents['key_id']}/rotate")
        rotated = await shown.issue(admin, f"{PATH}/{made['key_id']}/rotate", overlap_seconds=60)
        for key in (made, elsewhere, agent, renewed, rotated):
            async with Api(url, key["secret"]) as api:
                await shown.send(api, "GET", "/api/v1/auth/me")
                await shown.send(api, "GET", "/api/v1/users")
                await shown.send(api, "POST", PATH, json={"name": 7})
                await shown.send(api, "POST", "/api/v1/auth/logout", json={})
                await shown.send(api, "DELETE", f"{PATH}/key_never")
            async with Api(url, key["secret"][:-1]) as api:
                await shown.send(api, "GET", "/api/v1/auth/me")
        async with open_socket(url, f"/ws?token={rotated['secret']}") as socket:
            await socket.send("connect")
            shown.answers.append(str(await socket.until("welcome")))
            await shown.send(admin, "DELETE", f"{PATH}/{rotated['key_id']}")
            await socket.close_code()
        async with Api(url, rotated["secret"]) as api:
            await shown.send(api, "GET", "/api/v1/auth/me")
        for path in (PATH, f"{PATH}/{made['key_id']}", "/api/v1/events", "/api/v1/audit"):
            await shown.send(admin, "GET", path)


def sql_dump(path: Path) -> str:
    """Every row as text, and the bytes of the files, deleted rows and the log included."""
    with closing(sqlite3.connect(path)) as database:
        rows = "\n".join(database.iterdump())
    files = path.parent.glob(f"{path.name}*")
    return rows + "".join(file.read_bytes().decode("latin-1") for file in files)


async def test_no_key_is_kept_where_it_could_be_read(
    tmp_path: Path, mongodb_uri: str, mongodb_client: MongoClient[dict[str, Any]]
) -> None:
    """Of all keys that were shown none is in SQL, MongoDB, logs, audit, events or other answers."""
    database = f"test_{uuid.uuid4().hex}"
    server = ServerProcess(
        tmp_path / "data",
        MONGODB_URI=mongodb_uri,
        MONGODB_DATABASE=database,
        ADMIN_PASSWORD=PASSWORD,
        RATE_LIMIT_ENABLED="false",
        LOG_LEVEL="debug",
    )
    shown = Shown()
    with dropped_afterwards(mongodb_uri, database):
        try:
            await use(server.start(), shown)
        finally:
            server.stop()
        shown.keys.append((server.data.find_operator_key() or "").strip())
        places = {
            "sql": sql_dump(server.data.sqlite_path),
            "mongodb": "".join(
                dumps(list(mongodb_client[database][name].find()))
                for name in mongodb_client[database].list_collection_names()
            ),
            "log": server.log_path.read_text(encoding="utf-8"),
            "answers": "\n".join(shown.answers),
        }
    assert len(set(shown.keys)) == 6
    for key in shown.keys:
        secret = key[len("azk_") + 6 :]
        assert [place for place, text in places.items() if secret in text] == []
        assert fingerprint(key) in places["sql"]
        assert fingerprint(key) not in places["mongodb"] + places["log"] + places["answers"]
    assert "api_key.rotated" in places["mongodb"]
    assert "rotate_api_key" in places["log"]
