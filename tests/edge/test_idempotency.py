"""A request under an `Idempotency-Key` has its effect once and one answer, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from hive.changes import Actor
from hive.errors import Unavailable
from hive.idempotency import KEPT_SECONDS, KeptAnswer
from storage.mongo.idempotency import MongoIdempotency
from tests.api.running import PASSWORD, PEOPLE, Api, RunningNode, found, running_node
from tests.edge.repeating import (
    REPLAYED,
    TASKS,
    crowd,
    events_of,
    new_key,
    same,
    send,
    tasks_named,
    work,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS, AGENTS = "/api/v1/users", "/api/v1/agents"
API_KEYS, SIGNING_KEYS = "/api/v1/api-keys", "/api/v1/signing-keys"
PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node that lets one principal send a hundred requests at once."""
    directory = tmp_path_factory.mktemp("idempotency")
    async with running_node(directory, mongodb_uri, max_concurrent_per_principal=200) as running:
        for name, role in PEOPLE.items():
            await running.add_user(name, role)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(node: RunningNode) -> Api:
    """A client of the admin."""
    return await node.log_in("admin")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def user(node: RunningNode) -> Api:
    """A client of a user."""
    return await node.log_in("user")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_user(node: RunningNode) -> Api:
    """A client of another user."""
    return await node.log_in("other_user")


@pytest.fixture
def losing_answers(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the next so many answers impossible to keep: the effect is there, the answer is 503."""
    keep = MongoIdempotency.finish

    def lose(count: int) -> None:
        left = count

        async def finish(
            self: MongoIdempotency, record_id: str, call_id: str, answer: KeptAnswer
        ) -> bool:
            nonlocal left
            left -= 1
            if left >= 0:
                raise Unavailable(store="mongodb")
            return await keep(self, record_id, call_id, answer)

        monkeypatch.setattr(type(node.node.store.idempotency), "finish", finish)

    return lose


async def test_a_hundred_at_once_make_one_task(node: RunningNode, user: Api) -> None:
    """One is carried out, the others learn that it is under way, and then get its answer."""
    body, key = work(), new_key()
    answers = await crowd(node, user, TASKS, body, key, size=100)
    answers += [await send(user, TASKS, body, key) for _ in range(2)]
    assert answers[-1].headers[REPLAYED] == "true"
    made = [answer for answer in answers if answer.status_code == 200]
    assert {answer.content for answer in made} == {answers[-1].content}
    assert sum(REPLAYED not in answer.headers for answer in made) == 1
    (task_id,) = await tasks_named(user, body["name"])
    assert task_id == answers[-1].json()["task_id"]
    assert len(await events_of(user, task_id, "task.created")) == 1


async def test_a_hundred_at_once_make_one_user(node: RunningNode, admin: Api) -> None:
    """In SQL, too."""
    body, key = {"username": f"once-{new_key()}", "password": PASSWORD}, new_key()
    answers = await crowd(node, admin, USERS, body, key, size=100)
    again = await send(admin, USERS, body, key)
    assert {one.content for one in answers if one.status_code == 201} <= {again.content}
    assert again.json()["username"] == body["username"]
    assert len(await events_of(admin, again.json()["user_id"], "user.created")) == 1


async def test_a_client_that_timed_out_gets_the_answer(
    node: RunningNode, user: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its first request still runs it is told to wait; nothing is done twice."""
    tasks = type(node.node.store.tasks)
    insert, arrived, going_on = tasks.insert, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        arrived.set()
        await going_on.wait()
        return await insert(*args)

    monkeypatch.setattr(tasks, "insert", slow)
    body, key = work(), new_key()
    impatient = asyncio.create_task(send(user, TASKS, body, key))
    await arrived.wait()
    impatient.cancel()
    waiting = await send(user, TASKS, body, key)
    assert (waiting.status_code, waiting.json()["code"]) == (409, "idempotency-in-flight")
    going_on.set()
    answer = await found(
        lambda: send(user, TASKS, body, key), lambda one: one.status_code == 200, "the answer"
    )
    assert answer.headers[REPLAYED] == "true"
    assert await tasks_named(user, body["name"]) == [answer.json()["task_id"]]


async def test_who_was_thought_dead_gives_the_answer_of_who_took_over(
    node: RunningNode, user: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was only slow: what it makes is there, and its own answer is dropped."""
    tasks = type(node.node.store.tasks)
    insert, arrived, going_on = tasks.insert, asyncio.Event(), asyncio.Event()

    async def slow_once(*args: Any) -> Any:
        if not arrived.is_set():
            arrived.set()
            await going_on.wait()
        return await insert(*args)

    monkeypatch.setattr(tasks, "insert", slow_once)
    body, key = work(), new_key()
    slow = asyncio.create_task(send(user, TASKS, body, key))
    await arrived.wait()
    requests = node.node.store.idempotency._requests
    await requests.update_many({"answer": None}, [{"$set": {"held_until": "$$NOW"}}])
    first = await send(user, TASKS, body, key)
    assert first.status_code == 200
    going_on.set()
    assert same(first, await slow)
    assert await tasks_named(user, body["name"]) == [first.json()["task_id"]]


async def test_a_key_belongs_to_one_request(user: Api, admin: Api) -> None:
    """Another body, query or operation under the same key is refused and does nothing."""
    body, key = work(), new_key()
    first = await send(user, TASKS, body, key)
    other = {**body, "priority": "high"}
    refused = await send(user, TASKS, other, key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
    refused = await send(user, API_KEYS, {"name": "other"}, key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
    assert same(first, await send(user, TASKS, body, key))
    assert await tasks_named(admin, body["name"]) == [first.json()["task_id"]]


async def test_everybody_has_keys_of_their_own(user: Api, other_user: Api) -> None:
    """The same key of another principal is another key."""
    body, key = work(), new_key()
    mine, theirs = await send(user, TASKS, body, key), await send(other_user, TASKS, body, key)
    assert mine.json()["task_id"] != theirs.json()["task_id"]
    assert REPLAYED not in theirs.headers


async def test_a_string_of_structured_fields_is_the_same_key(user: Api) -> None:
    """`"k"` as the draft writes it and `k` as others do; quotes within are escaped."""
    body, key = work(), new_key()
    first = await send(user, TASKS, body, f'"{key}"')
    assert same(first, await send(user, TASKS, body, key))
    body = work()
    first = await send(user, TASKS, body, rf'"a\"b\\c{key}"')
    assert same(first, await send(user, TASKS, body, rf'"a\"b\\c{key}"'))
    refused = await send(user, TASKS, body, rf'"a\"b\\\"c{key}"')
    assert REPLAYED not in refused.headers


@pytest.mark.parametrize("key", ["", "a b", '"open', '"a"; b=1', "k" * 256, '""', '"\\a"'])
async def test_what_is_no_key_is_refused(user: Api, key: str) -> None:
    """Visible ASCII, at most 255 characters, and a String that begins also ends."""
    problem = await user.refused(400, "POST", TASKS, json=work(), headers={"Idempotency-Key": key})
    assert problem["errors"][0]["parameter"] == "Idempotency-Key"


async def test_the_answer_stays_when_the_resource_changes(user: Api) -> None:
    """A repetition is told what happened then, not what is now."""
    body, key = work(), new_key()
    first = await send(user, TASKS, body, key)
    await user.ok("DELETE", f"{TASKS}/{first.json()['task_id']}")
    again = await send(user, TASKS, body, key)
    assert same(first, again)
    assert again.json()["status"] == "queued"


async def test_a_refusal_by_the_state_of_things_stays(admin: Api) -> None:
    """The same request gets the same answer, even when it would succeed by now."""
    name, key = f"once-{new_key()}", new_key()
    body = {"username": name, "password": PASSWORD}
    there = await admin.ok("POST", USERS, json=body)
    first = await send(admin, USERS, body, key)
    assert (first.status_code, first.json()["code"]) == (409, "username-taken")
    await admin.ok("DELETE", f"{USERS}/{there['user_id']}")
    assert same(first, await send(admin, USERS, body, key))
    assert (await send(admin, USERS, body, new_key())).status_code == 201


async def test_a_request_that_was_not_understood_uses_no_key_up(user: Api, admin: Api) -> None:
    """After 400 and 403 the key is free for the request as it should have been."""
    body, key = work(), new_key()
    assert (await send(user, TASKS, {**body, "priority": "urgent"}, key)).status_code == 400
    assert (await send(user, TASKS, body, key)).status_code == 200
    refused = {"username": f"once-{new_key()}", "password": PASSWORD}
    assert (await send(user, USERS, refused, key)).status_code == 403
    assert (await send(admin, USERS, refused, key)).status_code == 201


async def test_a_task_whose_answer_was_lost_is_not_made_again(
    user: Api, losing_answers: Callable[[int], None]
) -> None:
    """The repetition finds the task under the identifier that was chosen for it."""
    losing_answers(2)
    body, key = work(dependencies=[await user.submit()]), new_key()
    assert [(await send(user, TASKS, body, key)).status_code for _ in range(2)] == [503, 503]
    (task_id,) = await tasks_named(user, body["name"])
    again = await send(user, TASKS, body, key)
    assert again.json() == {"task_id": task_id, "status": "blocked"}
    assert len(await events_of(user, task_id, "task.created")) == 1


async def test_a_user_that_was_removed_meanwhile_does_not_come_back(
    admin: Api, losing_answers: Callable[[int], None]
) -> None:
    """A late repetition does not undo what somebody has decided since."""
    losing_answers(1)
    body, key = {"username": f"once-{new_key()}", "password": PASSWORD}, new_key()
    assert (await send(admin, USERS, body, key)).status_code == 503
    users = await admin.pages(USERS)
    made = next(one for one in users if one["username"] == body["username"])
    await admin.ok("DELETE", f"{USERS}/{made['user_id']}")
    again = await send(admin, USERS, body, key)
    assert (again.status_code, again.json()["code"]) == (409, "undone-meanwhile")
    assert body["username"] not in {one["username"] for one in await admin.pages(USERS)}


async def _make_api_key(admin: Api) -> tuple[str, dict[str, Any]]:
    del admin
    return API_KEYS, {"name": f"once-{new_key()}"}


async def _rotate_api_key(admin: Api) -> tuple[str, dict[str, Any]]:
    old = await admin.ok("POST", API_KEYS, json={"name": f"old-{new_key()}"})
    return f"{API_KEYS}/{old['key_id']}/rotate", {"overlap_seconds": 60}


async def _register_agent(admin: Api) -> tuple[str, dict[str, Any]]:
    del admin
    return AGENTS, {"name": f"once-{new_key()}"}


Wish = Callable[[Api], Awaitable[tuple[str, dict[str, Any]]]]


@pytest.mark.parametrize("wish", [_make_api_key, _rotate_api_key, _register_agent])
async def test_a_credential_is_shown_once(
    node: RunningNode, admin: Api, losing_answers: Callable[[int], None], wish: Wish
) -> None:
    """An answer that nobody got is made again, with the secret; one that was given is not."""
    path, body = await wish(admin)
    key = new_key()
    losing_answers(1)
    assert (await send(admin, path, body, key)).status_code == 503
    first = await send(admin, path, body, key)
    assert first.status_code == 201
    client = node.client(first.json()["api_key"])
    assert (await client.get("/api/v1/auth/me")).status_code == 200
    again = await send(admin, path, body, key)
    assert (again.status_code, again.json()["code"]) == (409, "secret-not-replayed")
    assert again.headers["location"] == first.headers["location"]
    assert again.headers[REPLAYED] == "true"
    kept = await node.node.store.idempotency._requests.find().to_list()
    assert first.json()["api_key"] not in str(kept)
    assert all("nonce" not in one for one in kept if "answer" in one)


async def test_keys_are_counted_once(admin: Api, losing_answers: Callable[[int], None]) -> None:
    """Of three attempts at one key one key is left, and one event."""
    losing_answers(2)
    key, body = new_key(), {"name": f"once-{new_key()}"}
    answers = [await send(admin, API_KEYS, body, key) for _ in range(3)]
    assert [one.status_code for one in answers] == [503, 503, 201]
    keys = [one for one in await admin.pages(API_KEYS) if one["name"] == body["name"]]
    assert [one["key_id"] for one in keys] == [answers[-1].json()["key_id"]]
    assert len(await events_of(admin, keys[0]["key_id"], "api_key.created")) == 1


async def test_a_public_key_is_no_secret(
    node: RunningNode, losing_answers: Callable[[int], None]
) -> None:
    """The answer of an Ed25519 key is given again, that of an HMAC key is not."""
    await node.add_user("signer", PEOPLE["user"])
    api = await node.log_in("signer")
    body, key = {"name": "k", "algorithm": "ed25519", "public_key": PUBLIC_KEY}, new_key()
    losing_answers(1)
    assert (await send(api, SIGNING_KEYS, body, key)).status_code == 503
    await node.node.services.signing_keys.revoke(
        (await node.node.authenticator.authenticate(str(api.credential))),
        (await api.ok("GET", SIGNING_KEYS))[0]["signing_key_id"],
        Actor("usr_1"),
    )
    first = await send(api, SIGNING_KEYS, body, key)
    assert first.status_code == 201
    assert same(first, await send(api, SIGNING_KEYS, body, key))
    assert len(await api.ok("GET", SIGNING_KEYS)) == 1


async def test_hmac_keys_are_shown_once(node: RunningNode) -> None:
    """The secret is in the first answer only."""
    await node.add_user("hmac_signer", PEOPLE["user"])
    api = await node.log_in("hmac_signer")
    body, key = {"name": "k", "algorithm": "hmac-sha256"}, new_key()
    first = await send(api, SIGNING_KEYS, body, key)
    assert first.json()["secret"]
    await node.node.services.signing_keys.revoke(
        (await node.node.authenticator.authenticate(str(api.credential))),
        first.json()["signing_key_id"],
        Actor("usr_1"),
    )
    again = await send(api, SIGNING_KEYS, body, key)
    assert (again.status_code, again.json()["code"]) == (409, "secret-not-replayed")


async def test_an_agent_that_was_unregistered_meanwhile_does_not_come_back(
    admin: Api, losing_answers: Callable[[int], None]
) -> None:
    """Its key was revoked with it; the repetition says so."""
    losing_answers(1)
    body, key = {"name": f"once-{new_key()}"}, new_key()
    assert (await send(admin, AGENTS, body, key)).status_code == 503
    agents = await admin.pages(AGENTS)
    made = next(one for one in agents if one["name"] == body["name"])
    await admin.ok("DELETE", f"{AGENTS}/{made['agent_id']}")
    again = await send(admin, AGENTS, body, key)
    assert (again.status_code, again.json()["code"]) == (409, "undone-meanwhile")


async def test_a_key_is_free_again_when_its_time_is_over(
    node: RunningNode, user: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 24 hours; MongoDB deletes the record, and one that is still there does not count."""
    assert KEPT_SECONDS == 24 * 60 * 60
    store = node.node.store.idempotency
    monkeypatch.setattr(store, "_kept_seconds", 0.3)
    body, key = work(), new_key()
    first = await send(user, TASKS, body, key)
    later = await found(
        lambda: send(user, TASKS, body, key),
        lambda one: one.json()["task_id"] != first.json()["task_id"],
        "the key is free",
    )
    assert REPLAYED not in later.headers
    indexes = await store._requests.index_information()
    assert indexes["expiry"]["key"] == [("expires_at", 1)]
    assert indexes["expiry"]["expireAfterSeconds"] == 0
