"""The hive as a whole: `client.hive`."""

from __future__ import annotations

from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.models import HiveStatus


class AsyncHive:
    """`client.hive`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def status(self) -> HiveStatus:
        """Agents and tasks counted by status, and where the event log stands."""
        answer = await self._http.request("GET", "/api/v1/hive/status")
        return decode_model(HiveStatus, answer.body)
