"""The hive as a whole: `client.hive`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from agentzero_client.address import segment
from agentzero_client.coordination_models import (
    HiveAction,
    HiveControlResult,
    HiveTopology,
    TakenBack,
    TaskDiagnosis,
)
from agentzero_client.decoding import decode_list, decode_model
from agentzero_client.http import Http
from agentzero_client.models import HiveStatus
from agentzero_client.paging import pages


class AsyncHive:
    """`client.hive`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def status(self) -> HiveStatus:
        """Whether leases are granted, agents and tasks by status, and where the log stands."""
        answer = await self._http.request("GET", "/api/v1/hive/status")
        return decode_model(HiveStatus, answer.body)

    async def control(self, action: HiveAction, *, reason: str | None = None) -> HiveControlResult:
        """Pause, drain or resume the hive (admins): whether any node grants new leases."""
        body = {"action": action} if reason is None else {"action": action, "reason": reason}
        answer = await self._http.request("POST", "/api/v1/hive/control", body=body)
        return decode_model(HiveControlResult, answer.body)

    async def topology(self) -> HiveTopology:
        """Nodes, agents by what they can do, what is queued, and the leaders of the duties."""
        answer = await self._http.request("GET", "/api/v1/hive/topology")
        return decode_model(HiveTopology, answer.body)

    def diagnoses(self, *, limit: int | None = None) -> AsyncIterator[TaskDiagnosis]:
        """Iterate over what waits, the oldest first, each with its cause."""
        return pages(self._http, "/api/v1/hive/diagnosis", TaskDiagnosis, {}, limit)

    async def diagnose(self, task_id: str) -> TaskDiagnosis:
        """Why one task waits. Raise NotFoundError."""
        path = f"/api/v1/tasks/{segment(task_id)}/diagnosis"
        return decode_model(TaskDiagnosis, (await self._http.request("GET", path)).body)

    async def rebalance(self) -> Sequence[TakenBack]:
        """Take back now what offline and drained agents hold (admins)."""
        answer = await self._http.request("POST", "/api/v1/hive/rebalance")
        return decode_list(TakenBack, answer.body["taken_back"])
