"""Runs an operation of the REST contract for a principal that did not come over HTTP.

The same binding, permission, parameters, body and handler as a request; the outcome is what the
request would be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog

from handlers.context import Context, Reply
from hive.errors import Forbidden, HiveError
from hive.permissions import Principal
from hive.ports import Services
from hive.raw_json import RawJson
from server.binding import BoundOperation
from server.contract import JSON, ContractMismatch, Operation
from server.inner_calls import CallsWithin
from server.load import Load
from server.logs import request_log
from server.pipeline import Audits, Call, Charges, Permits, Throttles
from server.problems import build_problem
from server.rate_limits import Unlimited

SERVER_FAULT = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status, and the body or the problem (the other one is None)."""

    status: int
    body: Any = None
    problem: Mapping[str, Any] | None = None

    @property
    def is_success(self) -> bool:
        """Tell whether the operation did what was asked."""
        return self.problem is None

    @property
    def code(self) -> str | None:
        """The code of the problem."""
        return None if self.problem is None else self.problem["code"]


class Invoker:
    """Invokes bound operations."""

    def __init__(
        self,
        operations: Mapping[str, BoundOperation],
        services: Services,
        *,
        authorization: Permits,
        audit: Audits,
        limits: Charges | None = None,
        load: Throttles | None = None,
        new_identifier: Callable[[str], str],
        new_call_id: Callable[[], str],
    ) -> None:
        self._operations = operations
        self._services = services
        self._authorization = authorization
        self._audit = audit
        self._limits = Unlimited() if limits is None else limits
        self._load = Load() if load is None else load
        self._new_identifier = new_identifier
        self._new_call_id = new_call_id

    async def invoke(
        self,
        operation_id: str,
        principal: Principal,
        address: str,
        *,
        parameters: Mapping[str, Any],
        body: Any = None,
        is_charged: bool = True,
    ) -> Outcome:
        """Run the operation; never raises. `body` is decoded, its raw members are RawJson.

        What the server does for a principal, unasked, is not charged.
        """
        bound = self._operations[operation_id]
        operation = bound.operation
        request_id = self._new_identifier("req")
        call = Call(self._new_call_id(), request_id, "websocket", address)
        call.operation, call.principal = operation, principal
        with request_log(request_id):
            try:
                self._load.admit(call)
                if is_charged:
                    await self._limits.charge(call)
                self._load.seat(call)
                acting = self._authorization.permit(operation, principal, address)
                _refuse_signed(operation)
                arguments = operation.check_parameters(parameters)
                if operation.body is not None:
                    arguments["body"] = _checked(operation, body)
                call.resource = _named(operation, parameters)
                await self._audit.admit(call)
                inner = CallsWithin(call, self._limits, self._audit, self._new_call_id)
                context = Context(
                    acting, request_id, address, self._services, call.call_id, inner=inner
                )
                result = await bound.call(context, arguments)
                reply = result if isinstance(result, Reply) else Reply(result)
                call.learn(reply.principal, reply.headers)
                outcome = _outcome(operation, reply)
            except Exception as error:  # noqa: BLE001 - every condition becomes an outcome
                outcome = _problem(operation, parameters, request_id, error)
            try:
                await self._audit.record(call, outcome.status, outcome.code)
            except Exception as error:  # noqa: BLE001 - every condition becomes an outcome
                outcome = _problem(operation, parameters, request_id, error)
            finally:
                self._load.leave(call)
        return outcome


def _outcome(operation: Operation, reply: Reply) -> Outcome:
    status = operation.success.status if reply.status is None else reply.status
    return Outcome(status, RawJson(reply.body) if isinstance(reply.body, bytes) else reply.body)


def _refuse_signed(operation: Operation) -> None:
    if operation.signed:
        raise Forbidden("This operation takes signed requests over HTTP only.")


def _named(operation: Operation, parameters: Mapping[str, Any]) -> str | None:
    """What the path names."""
    names = [one.name for one in operation.parameters if one.location == "path"]
    return next((str(parameters[name]) for name in names), None)


def _checked(operation: Operation, body: Any) -> Any:
    declared = operation.body
    if declared is None or (body is None and not declared.required):
        return body
    # What is free-form has been cut out; the contract allows anything in its place.
    shown = (
        {name: None if isinstance(value, RawJson) else value for name, value in body.items()}
        if isinstance(body, dict)
        else body
    )
    schema = declared.schemas[JSON]
    if not schema.is_valid(shown):
        errors = [
            {"pointer": pointer, "detail": detail} for pointer, detail in schema.errors(shown)
        ]
        raise ContractMismatch("The body does not match the contract.", errors=errors)
    return body


def _problem(
    operation: Operation, parameters: Mapping[str, Any], request_id: str, error: Exception
) -> Outcome:
    path = operation.path
    for name, value in parameters.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    problem = build_problem(error, instance=path, request_id=request_id)
    if not isinstance(error, HiveError):
        log.error("operation failed", operation=operation.operation_id, exc_info=error)
    elif problem.status >= SERVER_FAULT:
        log.warning("operation refused", operation=operation.operation_id, reason=str(error))
    return Outcome(problem.status, problem=problem.members)
