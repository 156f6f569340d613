"""Leases: what an agent reports of the task that it works on.

Every method needs the fence of the lease and raises LeaseLostError when the lease is not current
any more: nothing was changed then, and the work is to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentzero_client.address import segment
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.models import (
    Artifact,
    LeaseCompleted,
    LeaseState,
    LogAppended,
    Progress,
    TaskReceipt,
)
from agentzero_client.retrying import Repeat


class AsyncLeases:
    """`client.leases`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def renew(
        self, lease_id: str, fence: int, *, progress: Progress | None = None
    ) -> LeaseState:
        """Extend the lease by its period; record progress. `cancel_requested` asks to stop."""
        body: dict[str, Any] = {"fence": fence}
        if progress is not None:
            body["progress"] = progress_body(progress)
        answer = await self._post(lease_id, "renew", body, Repeat.REPEATABLE)
        return decode_model(LeaseState, answer)

    async def append_logs(
        self, lease_id: str, fence: int, lines: Sequence[Mapping[str, str]]
    ) -> LogAppended:
        """Append 1 to 500 lines (`message`, optionally `level`). Repeating it would log twice."""
        body = {"fence": fence, "lines": [dict(line) for line in lines]}
        return decode_model(LogAppended, await self._post(lease_id, "logs", body, Repeat.UNSENT))

    async def complete(
        self, lease_id: str, fence: int, result: Any = None, *, claim_next: bool = False
    ) -> LeaseCompleted:
        """End the task with its result (any JSON value). Repeating it gives the same answer.

        With `claim_next` the answer brings the agent's `next` lease when something is queued for
        it. Repeated, it may bring another one; the one of an answer that was lost expires.
        """
        body: dict[str, Any] = {"fence": fence}
        if result is not None:
            body["result"] = result
        if claim_next:
            body["claim_next"] = True
        answer = await self._post(lease_id, "complete", body, Repeat.REPEATABLE)
        return decode_model(LeaseCompleted, answer)

    async def attach(
        self,
        lease_id: str,
        fence: int,
        name: str,
        content: bytes,
        *,
        content_type: str | None = None,
    ) -> Artifact:
        """Hand a file over with the task. The same name replaces it; repeating it is harmless.

        Raise ConflictError when the task has as many files, or bytes of them, as it may.
        """
        params: dict[str, str | int] = {"fence": fence}
        if content_type is not None:
            params["content_type"] = content_type
        path = f"/api/v1/leases/{segment(lease_id)}/artifacts/{segment(name)}"
        answer = await self._http.request("PUT", path, params=params, content=content)
        return decode_model(Artifact, answer.body)

    async def fail(
        self, lease_id: str, fence: int, *, code: str, message: str, retryable: bool = True
    ) -> TaskReceipt:
        """End the attempt with an error; the task is tried again where that is allowed.

        Repeated after a lost answer it may raise LeaseLostError although the first one counted.
        """
        error = {"code": code, "message": message, "retryable": retryable}
        body = {"fence": fence, "error": error}
        answer = await self._post(lease_id, "fail", body, Repeat.REPEATABLE)
        return decode_model(TaskReceipt, answer)

    async def release(self, lease_id: str, fence: int, *, reason: str | None = None) -> TaskReceipt:
        """Give the task back unfinished; the attempt does not count. Repeating as with `fail`."""
        body = {"fence": fence} if reason is None else {"fence": fence, "reason": reason}
        answer = await self._post(lease_id, "release", body, Repeat.REPEATABLE)
        return decode_model(TaskReceipt, answer)

    async def _post(self, lease_id: str, verb: str, body: Mapping[str, Any], repeat: Repeat) -> Any:
        path = f"/api/v1/leases/{segment(lease_id)}/{verb}"
        return (await self._http.request("POST", path, body=body, repeat=repeat)).body


def progress_body(progress: Progress) -> dict[str, Any]:
    """The progress as the contract has it."""
    body: dict[str, Any] = {"fraction": progress.fraction}
    if progress.message is not None:
        body["message"] = progress.message
    return body
