"""Turns the methods of an asynchronous class into blocking ones, types included.

    class Tasks(Facade[AsyncTasks]):
        get = blocking(AsyncTasks.get)        # (task_id: str) -> Task
        list = iterating(AsyncTasks.list)     # (...) -> Iterator[TaskSummary]

Nothing is written twice: the signature and the documentation are those of the original.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from agentzero_client.portal import Portal

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


class Facade(Generic[A]):
    """Something asynchronous, and the portal to its event loop."""

    def __init__(self, asynchronous: A, portal: Portal) -> None:
        self._asynchronous = asynchronous
        self._portal = portal


class blocking(Generic[A, P, R]):  # noqa: N801  # Used like a function.
    """A method that runs the coroutine of the asynchronous one and waits for it."""

    def __init__(self, method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, facade: Facade[A], owner: type[Any] | None = None) -> Callable[P, R]:
        method = self._method

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return facade._portal.run(method(facade._asynchronous, *args, **kwargs))  # noqa: SLF001

        return call


class iterating(Generic[A, P, R]):  # noqa: N801  # Used like a function.
    """A method that gives a blocking iterator over the asynchronous one."""

    def __init__(self, method: Callable[Concatenate[A, P], AsyncIterator[R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(
        self, facade: Facade[A], owner: type[Any] | None = None
    ) -> Callable[P, Iterator[R]]:
        method = self._method

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            source = method(facade._asynchronous, *args, **kwargs)  # noqa: SLF001
            return _iterate(source, facade._portal)  # noqa: SLF001

        return call


def _iterate(source: AsyncIterator[R], portal: Portal) -> Iterator[R]:
    async def step() -> tuple[R] | None:
        try:
            return (await anext(source),)
        except StopAsyncIteration:
            return None

    while (item := portal.run(step())) is not None:
        yield item[0]
