"""Sessions: `client.auth`."""

from __future__ import annotations

from agentzero_client.access_models import Me, Tokens
from agentzero_client.credentials import LOGIN, SessionCredentials
from agentzero_client.decoding import decode_model
from agentzero_client.errors import AuthenticationError
from agentzero_client.http import Http
from agentzero_client.retrying import Repeat


class AsyncAuth:
    """`client.auth`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def login(self, username: str, password: str) -> Tokens:
        """Open a session; the client uses it and keeps it fresh from now on.

        Raise AuthenticationError `invalid-credentials`.
        """
        answer = await self._http.anonymous(LOGIN, {"username": username, "password": password})
        tokens = decode_model(Tokens, answer)
        self._http.credentials = SessionCredentials(username, password, tokens)
        return tokens

    async def refresh(self) -> Tokens:
        """Exchange the refresh token now; the client does so by itself when it is time."""
        credentials = self._http.credentials
        if not isinstance(credentials, SessionCredentials):
            raise AuthenticationError(401, "no-session", "An API key has no session to refresh.")
        return await credentials.refresh(self._http.anonymous)

    async def logout(self) -> None:
        """End the session, its refresh tokens included."""
        await self._http.request("POST", "/api/v1/auth/logout", body={}, repeat=Repeat.REPEATABLE)
        if isinstance(self._http.credentials, SessionCredentials):
            self._http.credentials.forget()

    async def change_password(self, current_password: str, new_password: str) -> None:
        """Change one's own password; every other session ends. Needs a session.

        Raise ProblemError `wrong-password`, `weak-password` or `too-many-attempts`,
        PermissionDeniedError for an API key.
        """
        body = {"current_password": current_password, "new_password": new_password}
        path = "/api/v1/auth/password"
        await self._http.request("POST", path, body=body, repeat=Repeat.NEVER)
        if isinstance(self._http.credentials, SessionCredentials):
            self._http.credentials.replace_password(new_password)

    async def me(self) -> Me:
        """Who the credential belongs to, and what it may do."""
        return decode_model(Me, (await self._http.request("GET", "/api/v1/auth/me")).body)
