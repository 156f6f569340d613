"""One's own sessions: `client.sessions`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentzero_client.access_models import RevokedSessions, Session
from agentzero_client.address import segment
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.paging import pages
from agentzero_client.retrying import Repeat

PATH = "/api/v1/auth/sessions"


class AsyncSessions:
    """`client.sessions`. What ends is refused within 1 s on every node, its WebSockets too."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, limit: int | None = None) -> AsyncIterator[Session]:
        """Iterate over one's live sessions, newest first; `current` is the one that asks."""
        return pages(self._http, PATH, Session, {}, limit)

    async def revoke(self, session_id: str) -> None:
        """End one of one's sessions. Raise NotFoundError, also when it has ended."""
        path = f"{PATH}/{segment(session_id)}"
        await self._http.request("DELETE", path, repeat=Repeat.UNSENT)

    async def revoke_others(self) -> int:
        """End all of one's sessions but the one that asks (with an API key: all); how many."""
        answer = await self._http.request("DELETE", PATH)
        return decode_model(RevokedSessions, answer.body).revoked
