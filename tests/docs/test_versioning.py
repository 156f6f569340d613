"""docs/versioning.md: its tables are those of the code, its examples are what the server says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from server import cli
from server.compatibility import RULES
from server.deprecations import MEMBERS, SHORTEST_NOTICE, find_deprecation
from server.pipeline import Call
from server.versions import Versions
from tests.contracts import our_contract

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "versioning.md").read_text("utf-8")
OPERATIONS = our_contract().operations
DEPRECATED = [one for one in OPERATIONS.values() if one.deprecated]


def rows(name: str) -> list[str]:
    """The lines of a table of the page."""
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def example(language: str) -> str:
    """The block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_rules_are_those_of_the_command() -> None:
    """Each rule with its sentence."""
    wanted = ["| rule | what happens |", "|---|---|"]
    wanted += [f"| `{rule}` | {said} |" for rule, said in RULES.items()]
    assert rows("rules") == wanted


def test_deprecated_operations_are_listed() -> None:
    """With their successors and days."""
    wanted = ["| operation | instead | deprecated | sunset |", "|---|---|---|---|"]
    for one in DEPRECATED:
        since, until, successor = (one.extensions[name] for name in MEMBERS)
        wanted.append(f"| `{one.operation_id}` | `{successor}` | {since} | {until} |")
    assert rows("deprecated") == wanted
    assert f"at least {SHORTEST_NOTICE.days} days" in PAGE


def test_example_of_the_contract_is_in_the_contract() -> None:
    """Word by word."""
    announced = yaml.load(example("yaml"), yaml.BaseLoader)
    (operation,) = (one for one in DEPRECATED if one.operation_id == "get_task_status")
    del announced["deprecated"]
    assert announced.items() <= operation.extensions.items()
    assert find_deprecation(operation) is not None


def test_example_of_an_answer_is_what_the_server_says() -> None:
    """The header fields are made by the server, for the request of the example."""
    request, answer = example("http").split("\n\n")
    task_id = request.split("/")[-2]
    call = Call("c", "r", "rest", "::1", operation=OPERATIONS["get_task_status"])
    Versions(OPERATIONS.values()).announce(call, {"task_id": task_id})
    assert [f"{name}: {value}" for name, value in call.headers.items()] == answer.split("\n")[1:4]


@pytest.mark.parametrize("renamed", [False, True])
def test_examples_of_the_command_are_what_it_prints(tmp_path: Path, *, renamed: bool) -> None:
    """Of the present contracts with and without another name of an operation."""
    for name in ("openapi.yaml", "asyncapi.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "openapi.yaml"
    if renamed:
        path.write_text(
            path.read_text().replace("operationId: get_task\n", "operationId: read_task\n")
        )
    printed = CliRunner().invoke(cli.app, ["contract", "diff", str(ROOT), str(tmp_path)])
    command = f"$ agentzero contract diff contracts/released/v1.0.0{' /tmp/renamed' * renamed}"
    said = "\n    ".join([command, *printed.output.splitlines()])
    assert f"    {said}\n" in PAGE
