"""The cookie mode of a dashboard: which page may use the cookie, and that nothing else sees it."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest

from hive.identity import REFRESH_IDLE
from tests.api.running import PASSWORD, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTH = "/api/v1/auth"
COOKIE = "__Host-agentzero-refresh"
DASHBOARD = "http://localhost:3000"


class Browser:
    """One browser's cookie, on requests of a page."""

    def __init__(self, node: RunningNode, origin: str | None) -> None:
        self.api = node.client()
        self.origin = origin
        self.token: str | None = None

    async def log_in(self, username: str = "admin") -> dict[str, Any]:
        """Log in with `cookie`; the body of the answer."""
        body = {"username": username, "password": PASSWORD, "cookie": True}
        return dict((await self.post("login", json=body)).raise_for_status().json())

    async def refresh(self, **options: Any) -> httpx.Response:
        """Refresh with the cookie."""
        return await self.post("refresh", **{"json": {}, **options})

    async def post(self, verb: str, **options: Any) -> httpx.Response:
        """Call an operation as the page would, and keep the cookie of the answer."""
        headers = options.pop("headers", {})
        if self.origin is not None:
            headers = {"Origin": self.origin, **headers}
        if self.token is not None:
            headers = {"Cookie": f"theme=dark; {COOKIE}={self.token}", **headers}
        response = await self.api.post(f"{AUTH}/{verb}", headers=headers, **options)
        if "Set-Cookie" in response.headers:
            self.token = _morsel(response).value or None
        return response


def _morsel(response: httpx.Response) -> Any:
    (line,) = response.headers.get_list("Set-Cookie")
    return SimpleCookie(line)[COOKIE]


@pytest.fixture
def page(node: RunningNode) -> Browser:
    """A browser on a page of the server itself."""
    return Browser(node, node.url)


async def test_login_puts_the_refresh_token_into_the_cookie_only(page: Browser) -> None:
    """With every attribute that keeps scripts, other hosts and other sites away."""
    body = {"username": "admin", "password": PASSWORD, "cookie": True}
    response = await page.post("login", json=body)
    assert response.json().keys() == {"access_token", "token_type", "expires_in"}
    morsel = _morsel(response)
    assert morsel.value.startswith("azr_")
    assert (morsel["secure"], morsel["httponly"]) == (True, True)
    assert (morsel["samesite"], morsel["path"], morsel["domain"]) == ("Strict", "/", "")
    week = REFRESH_IDLE.total_seconds()
    assert week - 60 < int(morsel["max-age"]) <= week
    assert morsel.value not in response.text


async def test_login_without_cookie_sets_none(anonymous: Api) -> None:
    """The original contract's clients get what they always got."""
    for more in ({}, {"cookie": False}):
        body = {"username": "admin", "password": PASSWORD, **more}
        response = await anonymous.post(f"{AUTH}/login", json=body)
        assert response.json()["refresh_token"].startswith("azr_")
        assert "Set-Cookie" not in response.headers


async def test_refresh_takes_the_cookie_and_gives_the_next(page: Browser) -> None:
    """The new access token works, the new refresh token is in the new cookie only."""
    await page.log_in()
    first = page.token
    response = await page.refresh()
    assert response.status_code == 200
    assert "refresh_token" not in response.json()
    assert page.token not in (None, first)
    api = page.api
    me = await api.get(
        f"{AUTH}/me", headers={"Authorization": f"Bearer {response.json()['access_token']}"}
    )
    assert me.json()["username"] == "admin"


async def test_pages_of_allowed_origins_may_use_it(node: RunningNode) -> None:
    """A dashboard that the operator named, on the same site."""
    browser = Browser(node, DASHBOARD)
    await browser.log_in()
    answer = await browser.refresh(headers={"Sec-Fetch-Site": "same-site"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        (None, None),
        (None, "same-origin"),
        ("null", None),
        ("http://evil.example", None),
        ("http://evil.example", "same-origin"),
        ("http://evil-localhost:3000", None),
        ("http://localhost:3000.evil.example", None),
        ("https://localhost:3000", None),
        ("http://localhost:3001", None),
        ("http://localhost:3000/", None),
        ("http://LOCALHOST:3000", None),
        ("https://{own}", None),
        ("http://{own}", "cross-site"),
        ("http://{own}", "Cross-Site"),
        (DASHBOARD, "cross-site"),
    ],
)
async def test_cookie_of_other_pages_does_not_count(
    node: RunningNode, origin: str | None, site: str | None
) -> None:
    """403, and the token is not used up: its owner refreshes as if nothing had been."""
    browser = Browser(node, node.url)
    await browser.log_in()
    own = node.url.removeprefix("http://")
    browser.origin = None if origin is None else origin.format(own=own)
    before = browser.token
    response = await browser.refresh(headers={"Sec-Fetch-Site": site} if site else {})
    assert response.status_code == 403
    assert response.json()["code"] == "origin-not-allowed"
    assert "Set-Cookie" not in response.headers
    browser.origin, browser.token = node.url, before
    assert (await browser.refresh()).status_code == 200


@pytest.mark.parametrize(
    ("origin", "site"), [(None, None), ("http://evil.example", None), (DASHBOARD, "cross-site")]
)
async def test_other_pages_get_no_cookie(
    node: RunningNode, origin: str | None, site: str | None
) -> None:
    """403 before the password is looked at: nobody is logged in where they did not mean to be."""
    browser = Browser(node, origin)
    for password in (PASSWORD, "wrong"):
        body = {"username": "admin", "password": password, "cookie": True}
        answer = await browser.post(
            "login", json=body, headers={"Sec-Fetch-Site": site} if site else {}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")
        assert "Set-Cookie" not in answer.headers


async def test_two_origins_are_none(node: RunningNode) -> None:
    """Which of them it is nobody can know."""
    browser = Browser(node, node.url)
    await browser.log_in()
    origins = [(b"Origin", node.url.encode()), (b"Origin", b"http://evil.example")]
    headers = [*origins, (b"Cookie", f"{COOKIE}={browser.token}".encode())]
    response = await browser.api.post(f"{AUTH}/refresh", json={}, headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_form_can_not_use_it(page: Browser, content_type: str) -> None:
    """What a page of another site could send without asking is no JSON."""
    await page.log_in()
    headers = {"Content-Type": content_type}
    assert (await page.post("refresh", content=b"{}", headers=headers)).status_code == 415
    assert (await page.post("refresh", content=b"", headers=headers)).status_code == 400


async def test_token_in_body_and_cookie_is_refused(page: Browser) -> None:
    """400: two tokens may be of two sessions; neither is used up."""
    await page.log_in()
    response = await page.refresh(json={"refresh_token": page.token})
    assert response.status_code == 400
    assert (await page.refresh()).status_code == 200


async def test_cookie_that_comes_twice_is_refused(page: Browser) -> None:
    """400."""
    await page.log_in()
    line = f"{COOKIE}={page.token}; {COOKIE}=azr_other"
    assert (await page.refresh(headers={"Cookie": line})).status_code == 400


async def test_refresh_with_nothing_is_unauthenticated(page: Browser) -> None:
    """Neither body nor cookie: the page has to log in."""
    response = await page.refresh()
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_reuse_of_a_cookie_ends_the_session(node: RunningNode, page: Browser) -> None:
    """As with a token in a body: two parties hold it, and both lose it."""
    tokens = await page.log_in()
    stolen = page.token
    await page.refresh()
    await page.refresh()
    honest = page.token
    page.token = stolen
    assert (await page.refresh()).status_code == 401
    page.token = honest
    assert (await page.refresh()).status_code == 401
    await node.client(tokens["access_token"]).refused(401, "GET", f"{AUTH}/me")


async def test_logout_takes_the_cookie_away(page: Browser) -> None:
    """And its token is worth nothing any more, whoever has kept it."""
    tokens = await page.log_in()
    kept = page.token
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    response = await page.post("logout", json={}, headers=bearer)
    morsel = _morsel(response)
    assert (morsel.value, morsel["max-age"], morsel["path"]) == ("", "0", "/")
    assert morsel["secure"]
    page.token = kept
    assert (await page.refresh()).status_code == 401


async def test_no_other_operation_takes_the_cookie(page: Browser) -> None:
    """It is no way into anything: neither as itself nor under other names."""
    await page.log_in()
    headers = {"Cookie": f"{COOKIE}={page.token}; access_token=x", "Origin": page.origin or ""}
    for method, path in (
        ("GET", f"{AUTH}/me"),
        ("POST", f"{AUTH}/logout"),
        ("POST", f"{AUTH}/ws-tickets"),
        ("GET", "/api/v1/tasks"),
    ):
        response = await page.api.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "line",
    [
        "=",
        ";;;",
        'a="b; c=d',
        "a=b=c;d",
        '$Version=1; x="\\"',
        "\x80\xff=\xfe",
        f"{COOKIE.lower()}=azr_x",
        f"a=1;  {COOKIE}x=azr_x",
        "a=" + "b" * 4_000,
        "; ".join(f"c{n}=v" for n in range(500)),
    ],
)
async def test_cookies_of_others_are_not_looked_at(
    node: RunningNode, anonymous: Api, line: str
) -> None:
    """However they are written, an operation answers as it does without them."""
    body = {"username": "admin", "password": PASSWORD}
    tokens = await anonymous.ok("POST", f"{AUTH}/login", json=body)
    headers = [(b"Cookie", line.encode("latin-1"))]
    response = await anonymous.post(
        f"{AUTH}/refresh", json={"refresh_token": tokens["refresh_token"]}, headers=headers
    )
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert (await anonymous.get("/health/live", headers=headers)).status_code == 200


@pytest.mark.parametrize("value", ["", "azr_x", "x" * 513, '"azr_x"', "a b", "\xff"])
async def test_bad_value_is_a_bad_request_or_token(page: Browser, value: str) -> None:
    """Never a fault of the server."""
    headers = [(b"Cookie", f"{COOKIE}={value}".encode("latin-1"))]
    response = await page.api.post(
        f"{AUTH}/refresh", json={}, headers=[*headers, (b"Origin", (page.origin or "").encode())]
    )
    assert response.status_code in (400, 401)


async def test_token_of_the_cookie_is_in_no_log_and_no_record(
    page: Browser, admin: Api, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither of the server's log nor of the audit log."""
    await page.log_in()
    secrets = [page.token or ""]
    await page.refresh()
    secrets.append(page.token or "")
    page.origin = "http://evil.example"
    await page.refresh()
    out, err = capfd.readouterr()
    assert not any(secret in out + err for secret in secrets)

    async def records() -> httpx.Response:
        return await admin.get("/api/v1/audit?limit=20")

    seen = await found(
        records, lambda answer: "origin-not-allowed" in answer.text, "the refusal is recorded"
    )
    assert not any(secret in seen.text for secret in secrets)
