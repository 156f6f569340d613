"""Contract and handlers fit together both ways, or the server does not start."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.binding import BindingError, bind
from server.contract import Contract
from tests.contract.running import FIXTURES, HANDLERS
from tests.contracts import our_contract

Alter = Callable[[str, str], str]
_SOURCE = (FIXTURES / "small" / "things.py").read_text("utf-8")
_CONTRACT = (FIXTURES / "openapi.yaml").read_text("utf-8")


class Sandbox:
    """A copy of the small contract and its handlers that a test may break."""

    def __init__(self, folder: Path, package: str) -> None:
        self.package = package
        self._handlers = folder / package
        self._handlers.mkdir()
        (self._handlers / "__init__.py").write_text("")
        self._folder = folder
        self.contract = _CONTRACT.replace(HANDLERS, package)
        self.source = _SOURCE

    def problems(self, **modules: str) -> str:
        """What start-up says."""
        (self._handlers / "things.py").write_text(self.source)
        for name, source in modules.items():
            (self._handlers / f"{name}.py").write_text(textwrap.dedent(source))
        path = self._folder / "openapi.yaml"
        path.write_text(self.contract)
        with pytest.raises(BindingError) as refusal:
            bind(Contract.load(path), self.package)
        assert len(refusal.value.problems) == len(str(refusal.value).splitlines()) - 1
        return str(refusal.value)


@pytest.fixture
def sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Sandbox]:
    """A package of its own name, forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    package = f"handlers_of_{abs(hash(request.node.nodeid))}"
    yield Sandbox(tmp_path, package)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def test_the_small_contract_binds(small: Contract) -> None:
    """Every operation gets its function."""
    bound = bind(small, HANDLERS)
    assert bound.keys() == small.operations.keys()
    assert bound["get_thing"].function.__name__ == "get_thing"


def test_a_removed_handler_stops_startup(sandbox: Sandbox) -> None:
    """The operation that nobody carries out is named."""
    sandbox.source = _SOURCE.replace("async def get_thing(", "async def _get_thing(")
    assert "get_thing: " in (said := sandbox.problems())
    assert "no such coroutine function" in said


def test_a_misspelt_operation_stops_startup(sandbox: Sandbox) -> None:
    """Both the operation and the function that is left over are named."""
    sandbox.contract = sandbox.contract.replace("operationId: get_thing", "operationId: get_thign")
    said = sandbox.problems()
    assert "get_thign: " in said
    assert f"{sandbox.package}.things.get_thing is bound by no operation" in said


def test_an_unbound_function_stops_startup(sandbox: Sandbox) -> None:
    """In a known controller, and in a module that no operation names."""
    sandbox.source += "\n\nasync def forgotten(context: Context) -> None:\n    pass\n"
    said = sandbox.problems(other="async def lost(context): ...")
    assert f"{sandbox.package}.things.forgotten is bound by no operation" in said
    assert f"{sandbox.package}.other.lost is bound by no operation" in said


def test_private_imported_and_plain_functions_are_no_handlers(sandbox: Sandbox) -> None:
    """Only the misspelt operation is complained of."""
    sandbox.contract = sandbox.contract.replace("x-permission: agents:write", "x-permission: a:b")
    said = sandbox.problems(
        other="from asyncio import sleep\nasync def _private(): ...\ndef plain(): ..."
    )
    assert len(said.splitlines()) == 2


def test_an_unknown_controller_stops_startup(sandbox: Sandbox) -> None:
    """The operation and the controller are named."""
    sandbox.contract = sandbox.contract.replace(
        f"operationId: get_open\n      x-openapi-router-controller: {sandbox.package}.things",
        "operationId: get_open\n      x-openapi-router-controller: os",
    )
    assert "get_open: unknown controller os" in sandbox.problems()


def test_a_controller_that_cannot_be_imported_stops_startup(sandbox: Sandbox) -> None:
    """The reason is said."""
    said = sandbox.problems(broken="import nothing_of_this_name")
    assert "broken cannot be imported: No module named 'nothing_of_this_name'" in said


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("", "x-rate-limit is None, not one of agent, auth,"),
        ("      x-rate-limit: often\n", "x-rate-limit is often, not one of"),
        ("      x-rate-limit: address\n", "x-rate-limit is address, not one of"),
        ("      x-rate-limit: none\n", "only a public operation has no rate limit"),
    ],
)
def test_an_operation_must_say_how_often(sandbox: Sandbox, declared: str, said: str) -> None:
    """No class, or one that has no policy, stops start-up."""
    controller = f"x-openapi-router-controller: {sandbox.package}.things\n"
    operation = f"operationId: get_thing\n      {controller}"
    old, new = f"{operation}      x-rate-limit: read\n", operation + declared
    assert old in sandbox.contract
    sandbox.contract = sandbox.contract.replace(old, new)
    assert f"get_thing: {said}" in sandbox.problems()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("x-permission: agents:write", "x-permission: agents:fly", "unknown permission agents:fly"),
        ("      x-permission: agents:write\n", "", "neither x-permission nor security"),
        (
            "x-permission: agents:write",
            "x-permission: agents:write\n      security: []",
            "public and x-permission at once",
        ),
        ("security:\n  - bearer: []\n", "security: []\n", "public and x-permission at once"),
    ],
)
def test_an_operation_must_be_permitted_or_public(
    sandbox: Sandbox, old: str, new: str, named: str
) -> None:
    """Denied unless declared: neither, both or an unknown permission stop start-up."""
    assert old in sandbox.contract
    sandbox.contract = sandbox.contract.replace(old, new, 1)
    said = sandbox.problems()
    assert f"delete_thing: {named}" in said


@pytest.mark.parametrize(
    ("declared", "named"),
    [("", "names a resource and has no x-ownership"), ("mine", "unknown ownership mine")],
)
def test_an_operation_on_a_resource_says_whose_it_may_be(
    sandbox: Sandbox, declared: str, named: str
) -> None:
    """Whoever adds an operation decides what it does with the resources of others."""
    line = "      x-ownership: none\n"
    assert line in sandbox.contract
    changed = line.replace("none", declared) if declared else ""
    sandbox.contract = sandbox.contract.replace(line, changed, 1)
    assert f"get_thing: {named}" in sandbox.problems()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("*, thing_id: str) ->", "*, id: str) ->", ["does not take `thing_id`", "takes `id`"]),
        ("context: Context, *, body: dict", "context: Context, body: dict", ["keyword-only"]),
        ("async def get_open(context", "async def get_open(request", ["is not `context`"]),
        ("async def get_open(context: Context)", "async def get_open()", ["is not `context`"]),
        ("*, kind: str)", "*, kind: str, **more: str)", ["`more` is not keyword-only"]),
        ("    limit: int,\n", "", ["does not take `limit`"]),
    ],
)
def test_a_signature_takes_exactly_what_the_contract_declares(
    sandbox: Sandbox, old: str, new: str, named: list[str]
) -> None:
    """A parameter too many, too few or of another name stops start-up."""
    assert old in _SOURCE
    sandbox.source = _SOURCE.replace(old, new, 1)
    said = sandbox.problems()
    assert all(part in said for part in named)


IF_MATCH = "        - {name: If-Match, in: header, schema: {type: string, maxLength: 9}}\n"
ASKED = IF_MATCH.replace("If-Match", "If-None-Match")
PIPED = ASKED.replace("in: header,", "in: header, x-pipeline: true,")
UNCHANGED = "        '304': {description: Unchanged.}\n"
FIELDS = "        - {name: fields, in: query, schema: {type: string, maxLength: 9}}\n"


@pytest.mark.parametrize(
    ("said_of_it", "parameter", "answer", "named"),
    [
        (
            "      x-precondition: required\n",
            "",
            "",
            "x-precondition without the parameter If-Match",
        ),
        ("      x-precondition: maybe\n", "", "", "unknown x-precondition maybe"),
        ("", IF_MATCH, "", "If-Match and no 412"),
        ("", PIPED, "", "one of If-None-Match and 304 without the other"),
        ("", "", UNCHANGED, "one of If-None-Match and 304 without the other"),
        ("", ASKED, UNCHANGED, "If-None-Match is for the pipeline of GET"),
        ("", FIELDS, "", "fields of what is no list of objects"),
    ],
)
def test_conditions_are_declared_whole_or_not_at_all(
    sandbox: Sandbox, said_of_it: str, parameter: str, answer: str, named: str
) -> None:
    """A precondition that nothing could meet, or that would not be looked at, stops start-up."""
    parameters = f"      parameters:\n{parameter}" if parameter else ""
    old = "      x-ownership: none\n      responses:\n"
    new = f"      x-ownership: none\n{said_of_it}{parameters}      responses:\n{answer}"
    assert old in sandbox.contract
    sandbox.contract = sandbox.contract.replace(old, new, 1)
    assert f"get_thing: {named}" in sandbox.problems()


def test_the_product_binds() -> None:
    """The handlers of this repository carry out the contract of this repository."""
    contract = our_contract()
    assert bind(contract).keys() == contract.operations.keys()
