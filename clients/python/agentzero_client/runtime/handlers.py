"""Handlers: which one runs a task, and how it takes the task's parameters.

A handler is chosen by the first of the task's required capabilities that has one, else by the
task's exact name, else it is the one registered as `*`.

The signature says how the parameters arrive:

    async def handler(ctx)                          not at all
    async def handler(ctx, parameters)              as they are, any JSON value
    async def handler(ctx, path, *, limit=10)       by name: they must be an object whose keys fit
    async def handler(ctx, **parameters)            by name, any key

A function that is not asynchronous runs in a thread of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agentzero_client.models import LeasedTask
from agentzero_client.runtime.failures import TaskError

ANY = "*"


class Passing(Enum):
    """How a handler takes the parameters."""

    NOTHING = "nothing"
    WHOLE = "whole"
    BY_NAME = "by name"


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function."""

    function: Callable[..., Any]
    signature: inspect.Signature
    passing: Passing
    is_async: bool

    def arguments(self, context: Any, parameters: Any) -> inspect.BoundArguments:
        """Bind a call; raise TaskError `invalid-parameters`, not retryable, when they don't fit."""
        if self.passing is Passing.NOTHING:
            return self.signature.bind(context)
        if self.passing is Passing.WHOLE:
            return self.signature.bind(context, parameters)
        if not isinstance(parameters, Mapping | None):
            kind = type(parameters).__name__
            raise TaskError("invalid-parameters", f"The parameters must be an object, got {kind}.")
        try:
            return self.signature.bind(context, **(parameters or {}))
        except TypeError as error:
            raise TaskError("invalid-parameters", f"The parameters don't fit: {error}.") from error


class Handlers:
    """The handlers of one agent."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @property
    def names(self) -> list[str]:
        """Names under which handlers are registered, without `*`, in the order of registration."""
        return [name for name in self._handlers if name != ANY]

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Register; raise ValueError for a name that is taken and TypeError for no handler."""
        if not name:
            raise ValueError("a handler needs a name")
        if name in self._handlers:
            raise ValueError(f"there is a handler for {name!r} already")
        self._handlers[name] = _inspect(name, function)

    def choose(self, task: LeasedTask) -> Handler:
        """Give the handler; raise TaskError `no-handler`, not retryable."""
        for name in (*task.required_capabilities, task.name, ANY):
            if name in self._handlers:
                return self._handlers[name]
        asked = ", ".join(task.required_capabilities) or "no capability"
        known = ", ".join(self._handlers) or "nothing"
        raise TaskError(
            "no-handler",
            f"The agent has no handler for task {task.name!r} (requires {asked}); "
            f"it has handlers for {known}.",
        )


def _inspect(name: str, function: Callable[..., Any]) -> Handler:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"the handler for {name!r} yields; it must return its result")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise TypeError(f"the handler for {name!r} must take the context as its first argument")
    rest = parameters[1:]
    passing = Passing.BY_NAME
    if not rest:
        passing = Passing.NOTHING
    elif len(rest) == 1 and rest[0].kind in positional and rest[0].name == "parameters":
        passing = Passing.WHOLE
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # An object may be called asynchronously.
    )
    return Handler(function, signature, passing, is_async)
