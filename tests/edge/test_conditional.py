"""Validators, `If-None-Match` and HEAD: what a client has already is not sent again."""

from __future__ import annotations

import re

import httpx
import pytest
import pytest_asyncio

from hive.permissions import Role
from hive.preconditions import CODINGS
from server.answers import SECURITY_HEADERS
from server.contract import Operation
from tests.api.operations import CONTRACT, Existing, add_person, make_existing
from tests.api.running import Api, RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRONG = re.compile(r'"(?:[0-9]+\.)?[0-9a-f]{24}(?:-gzip|-br|-zstd)?"')
# The tag of a file is its SHA-256.
OF_FILES = re.compile(r'"[0-9a-f]{64}"')
GETS = [one for one in CONTRACT.operations.values() if one.method == "GET"]
CONDITIONAL = [one for one in GETS if one.is_conditional]
# What is asked once, and what is as long as the audit log; this list only shrinks.
UNCONDITIONAL = {"get_liveness", "get_readiness", "export_audit_records"}
# It tells the time.
ALWAYS_NEW = {"get_hive_status"}
# Only those that differ between two requests anyway.
VOLATILE_HEADERS = {"date", "x-request-id", "content-length", "etag", "age", "link"}


def by_name(operations: list[Operation]) -> pytest.MarkDecorator:
    """One test for each operation."""
    return pytest.mark.parametrize("operation", operations, ids=lambda one: one.operation_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing(node: RunningNode, admin: Api, user: Api) -> Existing:
    """One of each resource."""
    return await make_existing(node, admin, user)


async def test_every_get_is_conditional() -> None:
    """Except for health and the export."""
    assert {one.operation_id for one in GETS if not one.is_conditional} == UNCONDITIONAL


@by_name(CONDITIONAL)
async def test_tag_stands_for_the_representation(
    admin: Api, existing: Existing, operation: Operation
) -> None:
    """A strong tag; while nothing changes 304 without a body, and another tag once it has."""
    target = existing.target(operation)
    strong = OF_FILES if operation.operation_id == "get_task_artifact" else STRONG
    for _ in range(10):
        first = await admin.get(target)
        assert strong.fullmatch(first.headers["ETag"])
        assert first.headers["Cache-Control"] == "private, no-cache"
        again = await admin.get(target, headers={"If-None-Match": first.headers["ETag"]})
        if again.status_code == 304:
            assert_not_modified(again, first.headers["ETag"])
            return
        assert again.headers["ETag"] != first.headers["ETag"]
        assert seen(again) != seen(first)
    assert operation.operation_id in ALWAYS_NEW


def seen(answer: httpx.Response) -> tuple[bytes, str | None]:
    """What a tag stands for."""
    return answer.content, answer.headers.get("Link")


def assert_not_modified(answer: httpx.Response, tag: str) -> None:
    """RFC 9110, section 15.4.5."""
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["ETag"] == tag
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert not {"content-type", "content-encoding"} & answer.headers.keys()
    assert answer.headers.get("Content-Length", "0") == "0"
    for name in SECURITY_HEADERS.keys() - {"Cache-Control"}:
        assert answer.headers[name] == SECURITY_HEADERS[name]
    assert "X-Request-Id" in answer.headers


async def test_tag_of_a_version_starts_with_it(admin: Api, existing: Existing) -> None:
    """Agents, tasks, users and the settings of the system."""
    for path in ("agents/{agent_id}", "tasks/{task_id}", "users/{user_id}", "system/settings"):
        answer = await admin.get(f"/api/v1/{path}".format_map(existing.named))
        assert answer.headers["ETag"].startswith(f'"{answer.json()["version"]}.')


@pytest.mark.parametrize(
    "form",
    [
        "{tag}", "W/{tag}", '"a", {tag}', '"a,b" ,{tag},  "c"', ", {tag},", "*",
        '"{opaque}-gzip"', '"{opaque}-br"', 'W/"{opaque}-zstd"',
    ],
)  # fmt: skip
async def test_tag_is_found_in_every_form(admin: Api, existing: Existing, form: str) -> None:
    """Weak, one of several, any, and that of a compressed answer."""
    target = existing.target(CONTRACT.operations["get_task"])
    tag = (await admin.get(target)).headers["ETag"]
    field = form.format(tag=tag, opaque=tag.strip('"'))
    answer = await admin.get(target, headers={"If-None-Match": field})
    coding = next((coding for coding in CODINGS if coding in field), "")
    assert_not_modified(answer, f'{tag[:-1]}{coding}"')


async def test_tags_may_stand_in_several_lines(admin: Api, existing: Existing) -> None:
    """RFC 9110, section 5.3: they are one list."""
    target = existing.target(CONTRACT.operations["get_task"])
    tag = (await admin.get(target)).headers["ETag"]
    lines = [("If-None-Match", '"a"'), ("If-None-Match", tag)]
    assert (await admin.get(target, headers=lines)).status_code == 304


@pytest.mark.parametrize(
    "field",
    ['"a"', "a", '"1.', "W/", "**", '"*"', '"-gzip"', '"1."', '"a" "b"', "w/{tag}", "{tag}x"],
)
async def test_what_names_no_such_tag_is_sent(admin: Api, existing: Existing, field: str) -> None:
    """Also what is no list of tags: a condition that can't be read is no reason to refuse."""
    target = existing.target(CONTRACT.operations["get_task"])
    tag = (await admin.get(target)).headers["ETag"]
    answer = await admin.get(target, headers={"If-None-Match": field.format(tag=tag)})
    assert answer.status_code == 200
    assert answer.headers["ETag"] == tag


async def test_longer_lists_are_refused(admin: Api) -> None:
    """1,024 characters are enough for twenty tags."""
    headers = {"If-None-Match": ", ".join(['"' + "a" * 20 + '"'] * 50)}
    await admin.refused(400, "GET", "/api/v1/tasks", headers=headers)


async def test_page_that_gets_a_next_one_is_another(admin: Api, user: Api) -> None:
    """The same tasks and another `Link`: whoever kept the page would never find the next."""
    for _ in range(2):
        await user.submit(name="tagged")
    path = "/api/v1/tasks?name=tagged&order=asc&limit=2"
    before = await admin.get(path)
    await user.submit(name="tagged")
    after = await admin.get(path, headers={"If-None-Match": before.headers["ETag"]})
    assert (before.content, after.status_code) == (after.content, 200)
    assert "next" in after.links


async def test_refusals_have_no_tag(admin: Api, user: Api) -> None:
    """And `*` makes no 304 of them."""
    headers = {"If-None-Match": "*"}
    for api, path, status in (
        (admin, "/api/v1/tasks/tsk_none", 404),
        (user, "/api/v1/users", 403),
        (admin, "/api/v1/tasks?limit=0", 400),
    ):
        answer = await api.get(path, headers=headers)
        assert answer.status_code == status
        assert "ETag" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"


@by_name(CONDITIONAL)
async def test_who_may_not_read_does_not_learn_of_a_change(
    admin: Api, viewer: Api, anonymous: Api, existing: Existing, operation: Operation
) -> None:
    """Whoever is refused is refused with the right tag, too, byte for byte as without."""
    target = existing.target(operation)
    tag = (await admin.get(target)).headers["ETag"]
    for api in (viewer, anonymous):
        plain = await api.get(target)
        for field in (tag, "*"):
            answer = await api.get(target, headers={"If-None-Match": field})
            if plain.status_code == 200:
                assert answer.status_code in (200, 304)
            else:
                assert answer.status_code == plain.status_code


async def test_who_lost_the_permission_gets_no_304(node: RunningNode, admin: Api) -> None:
    """Role and session are looked at before the tag is."""
    demoted = await add_person(node, admin, Role.ADMIN)
    me = await demoted.ok("GET", "/api/v1/auth/me")
    user_path = f"/api/v1/users/{me['principal_id']}"
    kept = await demoted.get(user_path)
    tag = {"If-None-Match": kept.headers["ETag"]}
    assert (await demoted.get(user_path, headers=tag)).status_code == 304
    await admin.ok("PATCH", user_path, json={"role": "viewer"})
    await demoted.refused(403, "GET", user_path, headers=tag)
    mine = {"If-None-Match": (await demoted.get("/api/v1/auth/me")).headers["ETag"]}
    await admin.ok("PATCH", user_path, json={"disabled": True})
    await demoted.refused(401, "GET", "/api/v1/auth/me", headers=mine)


@by_name(GETS)
async def test_head_is_get_without_the_body(
    admin: Api, viewer: Api, anonymous: Api, existing: Existing, operation: Operation
) -> None:
    """The same status and headers for everybody, and nothing more than headers."""
    target = existing.target(operation)
    for api in (admin, viewer, anonymous):
        full, head = await api.get(target), await api.head(target)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert int(head.headers["Content-Length"]) > 0
        for name in (full.headers.keys() | head.headers.keys()) - VOLATILE_HEADERS:
            assert head.headers.get(name) == full.headers.get(name), name


async def test_head_is_conditional_too(admin: Api, existing: Existing) -> None:
    """Its tag and its length are those of GET."""
    target = existing.target(CONTRACT.operations["get_task"])
    full, head = await admin.get(target), await admin.head(target)
    assert head.headers["ETag"] == full.headers["ETag"]
    assert head.headers["Content-Length"] == full.headers["Content-Length"]
    tag = {"If-None-Match": full.headers["ETag"]}
    assert_not_modified(await admin.head(target, headers=tag), full.headers["ETag"])
