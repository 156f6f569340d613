"""Requests: paging, repetition, errors."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from agentzero_client import (
    AsyncClient,
    AuthenticationError,
    BadRequestError,
    Client,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    LeaseLostError,
    NotFoundError,
    PermissionDeniedError,
    ProblemError,
    RateLimitedError,
    RetryPolicy,
    SecretLostError,
    UnavailableError,
    UnexpectedAnswerError,
)
from agentzero_client.paging import next_query
from agentzero_client.retrying import retry_after_seconds
from tests.client.fake_hive import FakeHive, Trouble


async def test_list_follows_the_link_header_to_the_last_page(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Iterating gives every item of every page once, in order."""
    hive.page_size = 3
    submitted = [hive.add_task(f"t{n}") for n in range(8)]
    assert [task.task_id async for task in client.tasks.list()] == submitted
    assert len([r for r in hive.requests if r[:2] == ("GET", "/api/v1/tasks")]) == 3


async def test_list_with_limit_asks_for_no_page_too_many(
    hive: FakeHive, client: AsyncClient
) -> None:
    """`limit` bounds the iteration, not the page."""
    hive.page_size = 3
    submitted = [hive.add_task(f"t{n}") for n in range(8)]
    assert [task.task_id async for task in client.tasks.list(limit=4)] == submitted[:4]
    assert len(hive.requests) == 2


async def test_list_filters_stay_on_every_page(hive: FakeHive, client: AsyncClient) -> None:
    """The query of the next page comes from the server and carries the filters."""
    hive.page_size = 1
    kept = [hive.add_task(f"t{n}", status="failed") for n in range(2)]
    hive.add_task("other")
    assert [task.task_id async for task in client.tasks.list(status="failed")] == kept


@pytest.mark.parametrize(
    ("link", "query"),
    [
        (None, None),
        (
            '<https://other.example/x?cursor=a%2Fb&limit=5>; rel="next"',
            {"cursor": "a/b", "limit": "5"},
        ),
        ('</a?cursor=1>; rel="prev", </a?cursor=2>; rel=next; title="a, b"', {"cursor": "2"}),
        ('</a?cursor=1>; rel="last"', None),
    ],
)
def test_next_page_is_read_from_the_link_header(
    link: str | None, query: dict[str, str] | None
) -> None:
    """RFC 8288 in the forms that servers write it; only the query is used."""
    assert next_query(link) == query


async def test_read_is_repeated_after_503_as_the_server_asks(
    hive: FakeHive, client: AsyncClient
) -> None:
    """A read survives a store that is away for a moment."""
    task_id = hive.add_task("t")
    hive.troubles.append(Trouble("GET", task_id, 503, headers={"Retry-After": "0"}, times=2))
    assert (await client.tasks.get(task_id)).task_id == task_id
    assert len(hive.requests) == 3


async def test_submission_is_repeated_under_its_key(hive: FakeHive, client: AsyncClient) -> None:
    """After a 503 the task may exist already: the key tells the server that it is the same one."""
    hive.troubles += [
        Trouble("POST", "tasks", 503, acts=True, headers={"Retry-After": "0"}),
        Trouble("POST", "tasks", 409, "idempotency-in-flight", headers={"Retry-After": "0"}),
    ]
    receipt = await client.tasks.submit("t")
    assert list(hive.tasks) == [receipt.task_id]
    await client.tasks.submit("t")
    assert len(hive.tasks) == 2
    assert len(set(hive.keys)) == 2
    assert None not in hive.keys


async def test_submission_is_repeated_when_its_connection_broke(
    hive: FakeHive, client: AsyncClient
) -> None:
    """No answer, whatever became of the request."""
    hive.drops = 2
    receipt = await client.tasks.submit("t")
    assert list(hive.tasks) == [receipt.task_id]


async def test_submission_is_repeated_a_bounded_number_of_times(hive: FakeHive) -> None:
    """One that stays under way ends with its refusal."""
    under_way = Trouble("POST", "tasks", 409, "idempotency-in-flight", times=50)
    hive.troubles.append(under_way)
    retries = RetryPolicy(attempts=3, base_seconds=0.0)
    async with AsyncClient(hive.url, api_key="admin-key", retries=retries) as client:
        with pytest.raises(ConflictError, match="idempotency-in-flight"):
            await client.tasks.submit("t")
    assert under_way.times == 47


async def test_other_conflicts_are_not_repeated(hive: FakeHive, client: AsyncClient) -> None:
    """The state of things is an answer."""
    hive.troubles.append(Trouble("POST", "agents", 409, "name-taken"))
    with pytest.raises(ConflictError, match="name-taken"):
        await client.agents.register("a")
    assert len(hive.requests) == 1


async def test_a_credential_whose_answer_was_lost_is_told_of(
    hive: FakeHive, client: AsyncClient
) -> None:
    """It was made and is not shown again; the error has a class of its own."""
    hive.drops = 1
    with pytest.raises(SecretLostError):
        await client.api_keys.create("ci")
    assert len(hive.api_keys) == 1


async def test_what_has_no_key_is_not_repeated(hive: FakeHive, client: AsyncClient) -> None:
    """Controlling twice is controlling twice."""
    agent_id, _ = hive.add_agent("a")
    hive.troubles.append(Trouble("POST", "control", 503, headers={"Retry-After": "0"}))
    with pytest.raises(UnavailableError):
        await client.agents.control(agent_id, "restart")
    assert hive.keys == []


async def test_submission_is_repeated_after_429(hive: FakeHive, client: AsyncClient) -> None:
    """A request that was refused by the limiter did nothing."""
    hive.troubles.append(Trouble("POST", "tasks", 429, headers={"Retry-After": "0"}, times=2))
    assert (await client.tasks.submit("t")).status == "queued"
    assert len(hive.tasks) == 1


async def test_submission_is_repeated_when_nobody_listened(hive: FakeHive) -> None:
    """A refused connection carried nothing to the server."""
    await hive.stop()
    retries = RetryPolicy(attempts=50, base_seconds=0.02, cap_seconds=0.05)
    async with AsyncClient(hive.url, api_key="admin-key", retries=retries) as client:
        submitting = asyncio.create_task(client.tasks.submit("t"))
        await asyncio.sleep(0)
        await hive.start()
        assert (await submitting).status == "queued"
    assert len(hive.tasks) == 1


async def test_a_wait_beyond_the_policy_is_raised_at_once(
    hive: FakeHive, client: AsyncClient
) -> None:
    """Whoever is asked to come back in an hour decides himself."""
    hive.troubles.append(Trouble("GET", "hive", 429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimitedError) as caught:
        await client.hive.status()
    assert caught.value.retry_after_seconds == 3600


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "contract-mismatch", BadRequestError),
        (401, "invalid-token", AuthenticationError),
        (403, "forbidden", PermissionDeniedError),
        (404, "task-not-found", NotFoundError),
        (409, "illegal-transition", ConflictError),
        (409, "lease-lost", LeaseLostError),
        (410, "log-trimmed", GoneError),
        (429, "rate-limited", RateLimitedError),
        (422, "invalid", ProblemError),
        (500, "internal", ProblemError),
        (503, "unavailable", UnavailableError),
    ],
)
async def test_problem_becomes_the_error_of_its_status(
    hive: FakeHive, status: int, code: str, kind: type[ProblemError]
) -> None:
    """Status, code and detail of the problem are on the error."""
    hive.troubles.append(Trouble("GET", "hive", status, code))
    retries = RetryPolicy(attempts=1)
    async with AsyncClient(hive.url, api_key="admin-key", retries=retries) as client:
        with pytest.raises(ProblemError) as caught:
            await client.hive.status()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, code, code)


async def test_error_names_the_places_of_a_bad_request() -> None:
    """What the server says of each place is in the message."""
    error = BadRequestError(
        400, "contract-mismatch", "No.", errors=[{"pointer": "/a", "detail": "b"}]
    )
    assert str(error) == "400 contract-mismatch: No. (/a: b)"


async def test_nobody_listening_is_a_connection_failure(hive: FakeHive) -> None:
    """The error says that nothing was sent."""
    await hive.stop()
    async with AsyncClient(hive.url, api_key="k", retries=RetryPolicy(attempts=1)) as client:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.hive.status()
    assert caught.value.was_sent is False


async def test_an_answer_that_never_comes_times_out() -> None:
    """Every request has a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        retries = RetryPolicy(attempts=1)
        async with AsyncClient(
            f"http://127.0.0.1:{port}", api_key="k", timeout_seconds=0.2, retries=retries
        ) as client:
            with pytest.raises(ConnectionFailedError) as caught:
                await client.hive.status()
    assert caught.value.was_sent is True


async def test_a_page_of_html_is_an_unexpected_answer() -> None:
    """A proxy's page is not taken for an answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with AsyncClient(f"http://127.0.0.1:{port}", api_key="k") as client:
        with pytest.raises(UnexpectedAnswerError):
            await client.hive.status()
    proxy.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("3", 3.0), ("soon", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """RFC 9110 10.2.3."""
    headers = httpx.Headers({} if value is None else {"Retry-After": value})
    assert retry_after_seconds(headers) == seconds


def test_client_refuses_arguments_that_do_not_fit() -> None:
    """Mistakes are told where they are made."""
    with pytest.raises(ValueError, match="one of token"):
        Client(token="a", api_key="b")
    with pytest.raises(ValueError, match="go together"):
        Client(username="a")
    with pytest.raises(ValueError, match="http or https"):
        Client("localhost:8000")


async def test_numbers_of_any_size_arrive_exactly(hive: FakeHive, client: AsyncClient) -> None:
    """Free-form JSON is the user's: nothing is rounded."""
    number = 2**70 + 1
    receipt = await client.tasks.submit("t", parameters={"n": number})
    assert (await client.tasks.get(receipt.task_id)).parameters == {"n": number}
