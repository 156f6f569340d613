"""Import rules that import-linter can't say: allowed lists instead of forbidden ones."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hive", "handlers", "storage", "server", "clients/python/agentzero_client")
LONGEST_MODULE = 400


def imported(path: Path) -> Iterator[str]:
    """The dotted names of what a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or ""


def modules(package: str) -> list[Path]:
    """Every module of a package, by path."""
    return sorted((ROOT / package).rglob("*.py"))


def test_no_module_is_too_long() -> None:
    """Of 400 lines at most: a longer one holds two nouns."""
    ours = [path for package in PACKAGES for path in modules(package)]
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in ours}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


@pytest.mark.parametrize("path", modules("hive"), ids=lambda path: path.stem)
def test_hive_imports_the_standard_library_only(path: Path) -> None:
    """The decisions depend on nothing that can be installed."""
    roots = {name.partition(".")[0] for name in imported(path)}
    assert roots - sys.stdlib_module_names - {"hive"} == set()


# What any program on the same machine may know of a server: its files and its settings.
OPEN_TO_THE_DEMO = {
    "server",  # `from server import die_with_parent`
    "server.data_directory",
    "server.resources",
    "server.settings",
}


@pytest.mark.parametrize("path", modules("server/demo"), ids=lambda path: path.stem)
def test_the_demo_uses_the_server_as_any_client_does(path: Path) -> None:
    """It speaks to the hive through the Python client, never through the server's own modules."""
    ours = {
        name
        for name in imported(path)
        if name.partition(".")[0] in {"server", "handlers", "hive", "storage"}
        and not name.startswith("server.demo")
    }
    assert ours - OPEN_TO_THE_DEMO == set()
