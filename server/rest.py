"""The way of a REST request. `RestHandler.serve` shows its order; nothing else decides."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.web import stream_request_body

from handlers.context import Context, Reply
from hive.errors import HiveError, InvalidToken, OriginNotAllowed, Unauthenticated
from hive.idempotency import Chosen
from hive.permissions import Principal
from server.answers import Answer, make_answer
from server.binding import BoundOperation
from server.conditional import revalidate, tag_answer
from server.contract import JSON, ContractMismatch, Operation
from server.cookies import read_cookie
from server.exchange import Exchange
from server.inner_calls import CallsWithin
from server.load import Overloaded
from server.logs import request_log
from server.parameters import parse_query
from server.problems import UnsupportedMediaType

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,8192}=*)")
_LISTS = frozenset({"If-Match", "If-None-Match"})
_UTF8 = frozenset({"", "utf-8", "utf8", '"utf-8"'})


@stream_request_body
class RestHandler(Exchange):
    """Serves every operation, and answers whatever is none."""

    async def serve(self) -> None:
        """Limit, route, authenticate, permit, read, run, record, answer: the way of every request.

        The body has arrived before. A call whose record can't be kept is not run when it could
        change something.
        """
        parts = self.pipeline
        with request_log(self.request_id):
            try:
                self.check_limits()
                bound, path = self.route()
                operation = bound.operation
                parts.versions.announce(self.call, path)
                parts.load.admit(self.call)
                principal = await self._authenticate(operation)
                await parts.limits.charge(self.call)
                parts.load.seat(self.call)
                principal = parts.authorization.permit(operation, principal, self.address)
                body = await self.take_body()
                self.call.signed = await parts.signatures.check(
                    operation, principal, self.request, body
                )
                arguments = self._read_arguments(operation, path, body)
                parts.load.park(self.call, arguments)
                answer = await self._run(bound, principal, arguments)
                answer = revalidate(operation, self.request.headers, answer)
                self._judge(answer)
                if parts.compression is not None:
                    answer = await parts.compression.compress(
                        operation, self.request.headers, answer
                    )
            except Overloaded as error:
                # Nobody was asked who they are: there is nothing to record (docs/overload.md).
                self.send(self.refuse(error))
                return
            except Exception as error:  # noqa: BLE001 - here exceptions become answers
                answer = self.refuse(await parts.limits.charge_failure(self.call, error))
            await self.send_all(await self.recorded(answer))

    get = put = post = delete = patch = head = serve

    def route(self) -> tuple[BoundOperation, dict[str, str]]:
        """The operation and its path parameters. Raises what `Routes.find` raises."""
        request = self.request
        bound, path = self.pipeline.routes.find(request.method or "", request.path, request.query)
        self.call.operation = bound.operation
        return bound, path

    async def room_for(self, size: int) -> int:
        """How large a body of the operation may be; room for this one is taken if it fits.

        Raises what keeps the operation from being run, and Overloaded.
        """
        parts = self.pipeline
        try:
            operation = self.route()[0].operation
        except HiveError:
            return parts.max_body_bytes
        limit = parts.large_bodies.limit_of(operation, parts.max_body_bytes)
        if parts.max_body_bytes < size <= limit:
            principal = await self._authenticate(operation)
            parts.authorization.permit(operation, principal, self.address)
            self.reserve(size)
        return limit

    async def _authenticate(self, operation: Operation) -> Principal | None:
        if operation.public:
            return None
        self.call.principal = await self.pipeline.authenticator.authenticate(
            read_bearer(self.request.headers), self.address
        )
        return self.call.principal

    async def _run(
        self, bound: BoundOperation, principal: Principal | None, arguments: dict[str, Any]
    ) -> Answer:
        await self.pipeline.audit.admit(self.call)
        operation, cache = bound.operation, self.pipeline.cache
        seen = None if operation.is_blind else principal
        make = partial(self._make, bound, seen, arguments)
        once = self.pipeline.idempotency
        if once is not None and principal is not None and operation.is_idempotent:
            return await once.answer(self, operation, principal, make)
        return await (cache.answer(operation, seen, arguments, make) if cache else make())

    async def _make(
        self,
        bound: BoundOperation,
        principal: Principal | None,
        arguments: dict[str, Any],
        chosen: Chosen | None = None,
    ) -> Answer:
        result = await bound.call(self._context(principal, chosen), arguments)
        reply = result if isinstance(result, Reply) else Reply(result)
        self.call.learn(reply.principal, reply.headers)
        return tag_answer(bound.operation, reply, make_answer(bound.operation, reply))

    def _context(self, principal: Principal | None, chosen: Chosen | None) -> Context:
        return Context(
            principal,
            self.request_id,
            self.address,
            self.pipeline.services,
            self.call.call_id,
            signed=self.call.signed,
            chosen=chosen,
            from_own_page=self.pipeline.origins.admit_cookie(self.request),
            inner=CallsWithin(
                self.call, self.pipeline.limits, self.pipeline.audit, self.pipeline.new_call_id
            ),
        )

    def _read_arguments(
        self, operation: Operation, path: dict[str, str], body: bytes
    ) -> dict[str, Any]:
        request = self.request
        if body and (operation.body is not None or operation.content_type is not None):
            _check_content_type(request.headers, operation.content_type or JSON)
        try:
            query = parse_query(request.query)
        except ValueError as error:
            raise ContractMismatch(str(error)) from None
        headers = {
            one.name.lower(): _lines(request.headers, one.name)
            for one in operation.parameters
            if one.location == "header" and one.name in request.headers
        }
        cookies = self._read_cookies(operation)
        arguments = operation.read_parameters(path, query, headers, cookies)
        if operation.content_type is not None:
            arguments["content"] = body
        elif body:
            arguments["body"] = operation.read_body(body)
        elif operation.body is not None:
            if operation.body.required:
                raise ContractMismatch("This operation needs a body.")
            arguments["body"] = None
        self.call.resource = next(iter(path.values()), None)
        return arguments

    def _read_cookies(self, operation: Operation) -> dict[str, list[str]]:
        """The cookies that the operation declares. Raise OriginNotAllowed when none may count."""
        lines = self.request.headers.get_list("Cookie")
        declared = [one.name for one in operation.parameters if one.location == "cookie"]
        found = {name: values for name in declared if (values := read_cookie(lines, name))}
        if found and not self.pipeline.origins.admit_cookie(self.request):
            raise OriginNotAllowed
        return found

    def _judge(self, answer: Answer) -> None:
        if self.pipeline.referee is not None:
            self.pipeline.referee.check_exchange(self, self.body, answer)


def read_bearer(headers: HTTPHeaders) -> str:
    """The credential in `Authorization` (RFC 6750). Raise Unauthenticated, InvalidToken."""
    given = headers.get_list("Authorization")
    if not given:
        raise Unauthenticated
    found = _BEARER.fullmatch(given[0])
    if len(given) > 1 or found is None:
        raise InvalidToken
    return found[1]


def _lines(headers: HTTPHeaders, name: str) -> list[str]:
    """What came under the name; of a list (RFC 9110, section 5.3) several lines are one."""
    lines = headers.get_list(name)
    return [", ".join(lines)] if name in _LISTS else lines


def _check_content_type(headers: HTTPHeaders, wanted: str) -> None:
    refusal = UnsupportedMediaType(None if wanted == JSON else f"Send {wanted}, as it is.")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise refusal
    media_type, *parameters = headers.get("Content-Type", "").split(";")
    charsets = [
        p.partition("=")[2].strip().lower()
        for p in parameters
        if p.strip().lower().startswith("charset")
    ]
    if media_type.strip().lower() != wanted or not _UTF8.issuperset(charsets):
        raise refusal


__all__ = ["RestHandler", "read_bearer"]
