"""One request: credentials, time limits, repetition and errors in one place."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agentzero_client.address import USER_AGENT
from agentzero_client.backoff import Backoff
from agentzero_client.credentials import Credentials
from agentzero_client.errors import (
    AgentZeroError,
    AuthenticationError,
    ConnectionFailedError,
    ProblemError,
    UnexpectedAnswerError,
    problem_error,
)
from agentzero_client.json_codec import NotJsonError, decode, encode
from agentzero_client.retrying import Repeat, RetryPolicy, retry_after_seconds
from agentzero_client.signing import Signer
from agentzero_client.trust import tls_context

CONNECT_SECONDS = 5.0
OCTETS = "application/octet-stream"
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer; `body` is the decoded JSON, or the bytes of a file."""

    body: Any
    headers: Mapping[str, str]


Query = Mapping[str, str | float | Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent, and sent again; `key` names it to the server."""

    method: str
    path: str
    params: Query | None = None
    body: Any = None
    timeout_seconds: float | None = None
    key: str | None = None
    version: int | None = None
    content: bytes | None = None


class Http:
    """Sends requests to one server. Safe for concurrent use on one event loop."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        timeout_seconds: float = 30.0,
        retries: RetryPolicy | None = None,
        trust_env: bool = True,
        signer: Signer | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.base_url = base_url
        self.tls = tls_context(tls)
        self.credentials = credentials
        self.trust_env = trust_env
        self._retries = retries or RetryPolicy()
        self._signer = signer
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            trust_env=trust_env,
            verify=True if self.tls is None else self.tls,
            # Waiting claims hold a connection each.
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=20),
        )

    async def close(self) -> None:
        """Close the pooled connections. Idempotent."""
        await self._client.aclose()

    async def token(self) -> str | None:
        """Give a credential that is good now, logging in or refreshing where needed."""
        return await self.credentials.token(self.anonymous)

    async def renew_token(self, rejected: str | None) -> bool:
        """Replace a credential that the server rejected; False when there is no other."""
        return await self.credentials.renew(self.anonymous, rejected)

    async def anonymous(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST without a credential: logging in and refreshing."""
        sent = _Request("POST", path, body=body)
        return (await self._repeated(sent, Repeat.REPEATABLE, None)).body

    async def answers(self) -> bool:
        """Tell whether the server is there."""
        try:
            await self._once(_Request("GET", "/health/live", timeout_seconds=CONNECT_SECONDS), None)
        except ProblemError as error:
            return error.status < 500  # noqa: PLR2004  # A proxy speaks for a server that is away.
        except AgentZeroError:
            return False
        return True

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Query | None = None,
        body: Any = None,
        repeat: Repeat | None = None,
        timeout_seconds: float | None = None,
        version: int | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """Send with the credential. Raise ProblemError, ConnectionFailed- or UnexpectedAnswerError.

        A 401 renews the credential once, where that is possible, and sends again: nothing was done.
        All sendings of a request that is `KEYED` carry one `Idempotency-Key`. With `version` it is
        carried out only while the resource has that version; sent again, it would be refused for
        what it has done itself. `content` is sent as it is, `body` as JSON.
        """
        if repeat is None:
            repeat = Repeat.REPEATABLE
            if method == "POST" or version is not None:
                repeat = Repeat.UNSENT
        key = str(uuid.uuid4()) if repeat is Repeat.KEYED else None
        sent = _Request(method, path, params, body, timeout_seconds, key, version, content)
        token = await self.token()
        try:
            return await self._repeated(sent, repeat, token)
        except AuthenticationError as error:
            # A signature is refused whatever the credential.
            if error.code.startswith("signature-") or not await self.renew_token(token):
                raise
        return await self._repeated(sent, repeat, await self.token())

    async def _repeated(self, sent: _Request, repeat: Repeat, token: str | None) -> Answer:
        backoff = Backoff(self._retries.base_seconds, self._retries.cap_seconds)
        attempt = 1
        while True:
            try:
                return await self._once(sent, token)
            except AgentZeroError as error:
                wait = error.retry_after_seconds if isinstance(error, ProblemError) else None
                if (
                    attempt >= self._retries.attempts
                    or (wait or 0.0) > self._retries.max_wait_seconds
                    or not repeat.allows(error)
                ):
                    raise
                await asyncio.sleep(backoff.next_seconds(at_least=wait or 0.0))
                attempt += 1

    async def _once(self, sent: _Request, token: str | None) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        if sent.key is not None:
            headers["Idempotency-Key"] = sent.key
        if sent.version is not None:
            headers["If-Match"] = f'"{sent.version}"'
        content = sent.content
        if content is not None:
            headers["Content-Type"] = OCTETS
        elif sent.body is not None:
            content = encode(sent.body)
            headers["Content-Type"] = "application/json"
        limit = self._timeout_seconds if sent.timeout_seconds is None else sent.timeout_seconds
        try:
            request = self._client.build_request(
                sent.method,
                sent.path,
                params=sent.params,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(limit, connect=min(limit, CONNECT_SECONDS)),
            )
            if self._signer is not None and token is not None:
                self._signer.sign(request)
            response = await self._client.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ConnectionFailedError(
                f"{sent.method} {self.base_url}{sent.path}: {reason}",
                was_sent=not isinstance(error, _UNSENT),
            ) from error
        return _judge(response)


def _judge(response: httpx.Response) -> Answer:
    if response.is_success and response.headers.get("content-type") == OCTETS:
        return Answer(response.content, response.headers)
    try:
        body = decode(response.content)
    except NotJsonError:
        body = None
    if response.is_success:
        if body is None and response.content != b"null":
            raise UnexpectedAnswerError(f"{response.status_code} without JSON from {response.url}")
        return Answer(body, response.headers)
    if response.is_redirect:
        raise UnexpectedAnswerError(
            f"{response.url} redirects to {response.headers.get('location')}"
        )
    raise problem_error(
        response.status_code,
        body if isinstance(body, dict) else {"detail": response.reason_phrase},
        retry_after_seconds=retry_after_seconds(response.headers),
    )
