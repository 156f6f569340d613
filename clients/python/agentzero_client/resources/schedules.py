"""Schedules: tasks that are made again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agentzero_client.address import segment
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.models import TaskReceipt
from agentzero_client.paging import Order, pages
from agentzero_client.retrying import Repeat
from agentzero_client.schedules import (
    Overlap,
    Schedule,
    ScheduleStatus,
    ScheduleSummary,
    ScheduleTimes,
)

PATH = "/api/v1/schedules"


class AsyncSchedules:
    """`client.schedules`. A refusal raises ProblemError, no answer ConnectionFailedError."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        name: str,
        task: Mapping[str, Any],
        *,
        cron: str | None = None,
        time_zone: str | None = None,
        interval_seconds: int | None = None,
        anchor: datetime | None = None,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        overlap: Overlap | None = None,
        catch_up_seconds: int | None = None,
        jitter_seconds: int | None = None,
        description: str | None = None,
        paused: bool = False,
    ) -> Schedule:
        """Make a schedule of `cron` or of `interval_seconds`; `task` is as a submission's body.

        Sent again under one `Idempotency-Key` until there is an answer. Raise ConflictError
        `name-taken` or `too-many-schedules`.
        """
        body = _body(
            name=name,
            task=dict(task),
            cron=cron,
            time_zone=time_zone,
            interval_seconds=interval_seconds,
            anchor=_time(anchor),
            starts_at=_time(starts_at),
            ends_at=_time(ends_at),
            overlap=overlap,
            catch_up_seconds=catch_up_seconds,
            jitter_seconds=jitter_seconds,
            description=description,
            paused=paused or None,
        )
        answer = await self._http.request("POST", PATH, body=body, repeat=Repeat.KEYED)
        return decode_model(Schedule, answer.body)

    async def get(self, schedule_id: str) -> Schedule:
        """One schedule with the task that it makes. Raise NotFoundError."""
        answer = await self._http.request("GET", _of(schedule_id))
        return decode_model(Schedule, answer.body)

    def list(
        self,
        *,
        status: ScheduleStatus | None = None,
        owner: str | None = None,
        name: str | None = None,
        order: Order | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[ScheduleSummary]:
        """Iterate over schedules, by default oldest first; `limit` bounds the whole iteration."""
        filters = {"status": status, "owner": owner, "name": name, "order": order}
        return pages(self._http, PATH, ScheduleSummary, filters, limit)

    async def update(
        self,
        schedule_id: str,
        *,
        name: str,
        task: Mapping[str, Any],
        cron: str | None = None,
        time_zone: str | None = None,
        interval_seconds: int | None = None,
        anchor: datetime | None = None,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        overlap: Overlap | None = None,
        catch_up_seconds: int | None = None,
        jitter_seconds: int | None = None,
        description: str | None = None,
        if_match: int | None = None,
    ) -> Schedule:
        """Replace the configuration as a whole, only of the version `if_match` if given.

        Raise PreconditionFailedError when the schedule has another version.
        """
        body = _body(
            name=name,
            task=dict(task),
            cron=cron,
            time_zone=time_zone,
            interval_seconds=interval_seconds,
            anchor=_time(anchor),
            starts_at=_time(starts_at),
            ends_at=_time(ends_at),
            overlap=overlap,
            catch_up_seconds=catch_up_seconds,
            jitter_seconds=jitter_seconds,
            description=description,
        )
        answer = await self._http.request("PUT", _of(schedule_id), body=body, version=if_match)
        return decode_model(Schedule, answer.body)

    async def delete(self, schedule_id: str, *, if_match: int | None = None) -> None:
        """Make no more tasks, and forget the schedule; `if_match` as in `update`."""
        await self._http.request("DELETE", _of(schedule_id), version=if_match)

    async def pause(self, schedule_id: str) -> Schedule:
        """Make no more tasks by the clock."""
        return await self._post(schedule_id, "pause")

    async def resume(self, schedule_id: str) -> Schedule:
        """Go on with the first time after now."""
        return await self._post(schedule_id, "resume")

    async def run(self, schedule_id: str) -> TaskReceipt:
        """Make the schedule's task now, whatever the clock says; once, as `create`."""
        path = f"{_of(schedule_id)}/run"
        answer = await self._http.request("POST", path, repeat=Repeat.KEYED)
        return decode_model(TaskReceipt, answer.body)

    async def times(self, schedule_id: str, *, limit: int = 10) -> Sequence[datetime]:
        """The next times, at most 100."""
        path = f"{_of(schedule_id)}/times"
        answer = await self._http.request("GET", path, params={"limit": limit})
        return decode_model(ScheduleTimes, answer.body).times

    async def _post(self, schedule_id: str, verb: str) -> Schedule:
        # Done twice it is as done once.
        path = f"{_of(schedule_id)}/{verb}"
        answer = await self._http.request("POST", path, repeat=Repeat.REPEATABLE)
        return decode_model(Schedule, answer.body)


def _of(schedule_id: str) -> str:
    return f"{PATH}/{segment(schedule_id)}"


def _body(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _time(value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("a time needs a time zone")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
