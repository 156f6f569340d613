"""API keys: `client.api_keys`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agentzero_client.access_models import ApiKey, ApiKeyCreated, ApiKeyStatus
from agentzero_client.address import segment
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.paging import pages
from agentzero_client.retrying import Repeat

PATH = "/api/v1/api-keys"


class AsyncApiKeys:
    """`client.api_keys`. A refusal raises ProblemError, no answer ConnectionFailedError."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] = (),
        expires_in_days: int | None = None,
        allowed_addresses: Sequence[str] = (),
    ) -> ApiKeyCreated:
        """Make a key; `api_key` comes once. No scopes: all that this credential may do.

        `allowed_addresses` are networks (CIDR). Raise PermissionDeniedError for what one lacks
        oneself, SecretLostError when the answer was lost on its way.
        """
        body: dict[str, Any] = {"name": name}
        if scopes:
            body["scopes"] = list(scopes)
        if expires_in_days is not None:
            body["expires_in_days"] = expires_in_days
        if allowed_addresses:
            body["allowed_addresses"] = list(allowed_addresses)
        answer = await self._http.request("POST", PATH, body=body, repeat=Repeat.KEYED)
        return decode_model(ApiKeyCreated, answer.body)

    def list(
        self,
        *,
        owner: str | None = None,
        status: ApiKeyStatus | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[ApiKey]:
        """Iterate over one's own keys (admins: everybody's), newest first, page by page."""
        return pages(self._http, PATH, ApiKey, {"owner": owner, "status": status}, limit)

    async def get(self, key_id: str) -> ApiKey:
        """One key, without its secret. Raise NotFoundError."""
        return decode_model(ApiKey, (await self._http.request("GET", _of(key_id))).body)

    async def revoke(self, key_id: str) -> ApiKey:
        """End a key within 1 s; again is fine. Raise NotFoundError."""
        answer = await self._http.request("DELETE", _of(key_id), repeat=Repeat.REPEATABLE)
        return decode_model(ApiKey, answer.body)

    async def rotate(self, key_id: str, *, overlap_seconds: int | None = None) -> ApiKeyCreated:
        """Make the successor of a key; the old one works for the overlap (a day) on.

        Raise ConflictError `api-key-rotated` or `api-key-ended`, SecretLostError.
        """
        body = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        path = f"{_of(key_id)}/rotate"
        answer = await self._http.request("POST", path, body=body, repeat=Repeat.KEYED)
        return decode_model(ApiKeyCreated, answer.body)


def _of(key_id: str) -> str:
    return f"{PATH}/{segment(key_id)}"
