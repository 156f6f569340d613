"""Which handler runs a task, and how it takes the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from agentzero_client import Agent, TaskError
from agentzero_client.models import LeasedTask
from agentzero_client.runtime.handlers import Handlers


def leased(name: str, *required: str) -> LeasedTask:
    """A task as an agent gets it."""
    return LeasedTask(
        task_id="tsk_1",
        name=name,
        priority="medium",
        dependencies=[],
        required_capabilities=list(required),
        attempt=1,
        max_attempts=3,
        labels={},
    )


def named(*names: str) -> Handlers:
    """Handlers that do nothing, by name."""
    handlers = Handlers()
    for name in names:
        handlers.add(name, functools.partial(lambda ctx, name: name, name=name))
    return handlers


@pytest.mark.parametrize(
    ("names", "task", "chosen"),
    [
        (["a", "b", "t", "*"], leased("t", "b", "a"), "b"),
        (["a", "t", "*"], leased("t", "x", "a"), "a"),
        (["t", "*"], leased("t", "x"), "t"),
        (["*"], leased("t", "x"), "*"),
    ],
)
def test_handler_is_chosen_by_capability_then_name_then_star(
    names: list[str], task: LeasedTask, chosen: str
) -> None:
    """The first required capability that has a handler wins."""
    handler = named(*names).choose(task)
    assert handler.function(None) == chosen


def test_task_without_a_handler_fails_clearly() -> None:
    """The message names what was asked for and what there is."""
    with pytest.raises(TaskError) as caught:
        named("a", "b").choose(leased("t", "x", "y"))
    assert (caught.value.code, caught.value.retryable) == ("no-handler", False)
    assert "'t' (requires x, y)" in caught.value.message
    assert "handlers for a, b" in caught.value.message


def call(function: Callable[..., Any], parameters: Any) -> Any:
    """Call a handler as the runtime does."""
    handlers = Handlers()
    handlers.add("h", function)
    bound = handlers.choose(leased("h")).arguments("ctx", parameters)
    return function(*bound.args, **bound.kwargs)


def test_context_alone_ignores_the_parameters() -> None:
    """As in handler(ctx)."""
    assert call(lambda ctx: ctx, {"a": 1}) == "ctx"


@pytest.mark.parametrize("parameters", [{"a": 1}, [1, 2], None, "text"])
def test_parameters_arrive_whole_by_that_name(parameters: Any) -> None:
    """As in handler(ctx, parameters)."""
    assert call(lambda ctx, parameters: parameters, parameters) == parameters


def test_parameters_arrive_by_name() -> None:
    """As in handler(ctx, path, limit=10) and handler(ctx, **parameters)."""
    assert call(lambda ctx, path, limit=10: (path, limit), {"path": "p"}) == ("p", 10)
    assert call(lambda ctx, **parameters: parameters, {"a": 1}) == {"a": 1}
    assert call(lambda ctx, **parameters: parameters, None) == {}


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ({}, "missing a required argument: 'path'"),
        ({"path": 1, "x": 2}, "unexpected keyword argument 'x'"),
        ({"path": 1, "ctx": 2}, "ctx"),
        ([1], "must be an object, got list"),
    ],
)
def test_parameters_that_do_not_fit_fail_the_task(parameters: Any, hint: str) -> None:
    """Trying again would not help."""
    with pytest.raises(TaskError) as caught:
        call(lambda ctx, path: path, parameters)
    assert (caught.value.code, caught.value.retryable) == ("invalid-parameters", False)
    assert hint in caught.value.message


def test_what_is_no_handler_is_refused_at_once() -> None:
    """Mistakes are told where they are made."""
    handlers = named("a")
    with pytest.raises(ValueError, match="already"):
        handlers.add("a", lambda ctx: None)
    with pytest.raises(TypeError, match="context"):
        handlers.add("b", lambda: None)
    with pytest.raises(TypeError, match="yields"):
        handlers.add("c", lambda ctx: (yield))
    with pytest.raises(ValueError, match="not an error code"):
        TaskError("no spaces allowed")


def test_capabilities_default_to_the_handlers() -> None:
    """What it can do is what it has handlers for."""
    agent = Agent("a")

    @agent.task("b")
    @agent.task("a")
    def handle(ctx: Any) -> None:
        """Do nothing."""

    agent.task("*")(handle)
    assert agent.capabilities == ["a", "b"]
    assert Agent("a", capabilities=["x"]).capabilities == ["x"]


@pytest.mark.parametrize("slots", [0, 65])
def test_slots_have_bounds(slots: int) -> None:
    """The contract's."""
    with pytest.raises(ValueError, match="1 to 64"):
        Agent("a", slots=slots)
