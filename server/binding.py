"""Binds the operations of the contract to functions, in both directions, or refuses to start.

An operation is bound to the public coroutine function `operationId` of its
`x-openapi-router-controller`. Every public coroutine function that a module of the handlers'
package defines is bound by exactly one operation.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from handlers.context import Context
from hive.permissions import ADMIN_PERMISSIONS, OWNERSHIPS, PERMISSIONS
from hive.rate_limits import CLASSES, UNLIMITED
from server.answer_rules import answer_problems
from server.contract import Contract, Operation
from server.deprecations import deprecation_problems

Handler = Callable[..., Awaitable[Any]]


class BindingError(Exception):
    """Contract and handlers do not fit together. `problems` names each place."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "The contract and the handlers do not fit together:\n"
            + "\n".join(f"- {p}" for p in self.problems)
        )


@dataclass(frozen=True, slots=True)
class BoundOperation:
    """An operation with the function that carries it out."""

    operation: Operation
    function: Handler

    async def call(self, context: Context, arguments: dict[str, Any]) -> Any:
        """Run the handler; what it raises goes through."""
        return await self.function(context, **arguments)


def bind(contract: Contract, package: str = "handlers") -> dict[str, BoundOperation]:
    """Give the bound operations by operationId. Raise BindingError that lists every mismatch."""
    problems: list[str] = []
    modules = dict(_import_modules(package, problems))
    functions = {
        (name, function_name): function
        for name, module in modules.items()
        for function_name, function in _public_coroutines(module)
    }
    bound: dict[str, BoundOperation] = {}
    for operation in contract.operations.values():
        problems.extend(_permission_problems(operation))
        problems.extend(_condition_problems(operation))
        problems.extend(_rate_limit_problems(operation))
        problems.extend(deprecation_problems(operation, contract.operations))
        if operation.controller not in modules:
            problems.append(f"{operation.operation_id}: unknown controller {operation.controller}")
            continue
        function = functions.pop((operation.controller, operation.operation_id), None)
        if function is None:
            problems.append(
                f"{operation.operation_id}: {operation.controller} has no such coroutine function"
            )
            continue
        problems.extend(_signature_problems(operation, function))
        problems.extend(
            f"{operation.operation_id}: {problem}"
            for problem in answer_problems(operation, function, contract.openapi)
        )
        bound[operation.operation_id] = BoundOperation(operation, function)
    problems.extend(f"{module}.{name} is bound by no operation" for module, name in functions)
    if problems:
        raise BindingError(problems)
    return bound


def _import_modules(package: str, problems: list[str]) -> Iterator[tuple[str, ModuleType]]:
    root = importlib.import_module(package)
    for info in pkgutil.iter_modules(root.__path__, f"{package}."):
        try:
            yield info.name, importlib.import_module(info.name)
        except ImportError as error:
            problems.append(f"{info.name} cannot be imported: {error}")


def _public_coroutines(module: ModuleType) -> Iterator[tuple[str, Handler]]:
    for name, value in vars(module).items():
        if (
            not name.startswith("_")
            and inspect.iscoroutinefunction(value)
            and value.__module__ == module.__name__
        ):
            yield name, value


def _permission_problems(operation: Operation) -> Iterator[str]:
    if operation.public and operation.permission is not None:
        yield f"{operation.operation_id}: public and x-permission at once"
    elif not operation.public and operation.permission is None:
        yield f"{operation.operation_id}: neither x-permission nor security: []"
    elif operation.permission is not None and operation.permission not in PERMISSIONS:
        yield f"{operation.operation_id}: unknown permission {operation.permission}"
    elif operation.ownership is None and _names_what_may_be_of_others(operation):
        yield f"{operation.operation_id}: names a resource and has no x-ownership"
    if operation.ownership not in (None, *OWNERSHIPS):
        yield f"{operation.operation_id}: unknown ownership {operation.ownership}"


def _rate_limit_problems(operation: Operation) -> Iterator[str]:
    declared = operation.extensions.get("x-rate-limit")
    if declared not in CLASSES:
        known = ", ".join(sorted(CLASSES))
        yield f"{operation.operation_id}: x-rate-limit is {declared}, not one of {known}"
    elif declared == UNLIMITED and not operation.public:
        yield f"{operation.operation_id}: only a public operation has no rate limit"


def _condition_problems(operation: Operation) -> Iterator[str]:
    where = operation.operation_id
    headers = {one.name: one for one in operation.parameters if one.location == "header"}
    if operation.precondition not in (None, "required"):
        yield f"{where}: unknown x-precondition {operation.precondition}"
    if operation.precondition is not None and "If-Match" not in headers:
        yield f"{where}: x-precondition without the parameter If-Match"
    if "If-Match" in headers and 412 not in operation.responses:  # noqa: PLR2004
        yield f"{where}: If-Match and no 412"
    asked = headers.get("If-None-Match")
    if (asked is not None) != (304 in operation.responses):  # noqa: PLR2004
        yield f"{where}: one of If-None-Match and 304 without the other"
    # Who waits for another version has to know which one the client has.
    is_read = "x-long-poll" in operation.extensions
    if asked is not None and not ((asked.for_pipeline or is_read) and operation.method == "GET"):
        yield f"{where}: If-None-Match is for the pipeline of GET"
    if operation.selects_fields and operation.item_fields is None:
        yield f"{where}: fields of what is no list of objects"


def _names_what_may_be_of_others(operation: Operation) -> bool:
    if operation.public or operation.permission in ADMIN_PERMISSIONS:
        return False
    return any(parameter.location == "path" for parameter in operation.parameters)


def _signature_problems(operation: Operation, function: Handler) -> Iterator[str]:
    taking = list(inspect.signature(function).parameters.values())
    first, rest = (taking[0] if taking else None), taking[1:]
    where = f"{operation.controller}.{operation.operation_id}"
    if first is None or first.name != "context" or first.kind is not first.POSITIONAL_OR_KEYWORD:
        yield f"{where}: the first parameter is not `context`"
    for parameter in rest:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            yield f"{where}: `{parameter.name}` is not keyword-only"
    names = [one.argument for one in operation.parameters if not one.for_pipeline] + (
        ["body"] if operation.body else []
    )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where}: two parameters of the contract are `{name}`"
    taken = {parameter.name for parameter in rest}
    for name in sorted(operation.argument_names - taken):
        yield f"{where}: does not take `{name}`, which the contract declares"
    for name in sorted(taken - operation.argument_names):
        yield f"{where}: takes `{name}`, which the contract does not declare"
