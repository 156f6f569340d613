"""The distribution: what the wheel carries, and that it is found in a checkout and installed."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server import resources

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("server", "handlers", "hive", "storage")
SOURCES = (
    *PACKAGES,
    *("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"),
    *("openapi.yaml", "asyncapi.yaml", "web", "examples"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without network, from a copy that a build may litter."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.pyc"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(directory)]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(source)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (found,) = directory.glob("agentzero_api-*.whl")
    return found


def test_the_wheel_carries_packages_contracts_pages_and_licence(wheel: Path) -> None:
    """Every module of a package, and everything that is shown to a user."""
    source = wheel.parent / "source"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()
        (scripts,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "agentzero = server.cli:main" in archive.read(scripts).decode()
        for contract in ("openapi.yaml", "asyncapi.yaml"):
            if (source / contract).exists():
                bundled = archive.read(f"server/_bundled/{contract}")
                assert bundled == (source / contract).read_bytes()
    modules = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*.py")
        if "_bundled" not in path.parts
    }
    assert modules - names == set()
    for directory in ("web", "examples"):
        files = {
            f"server/_bundled/{path.relative_to(source).as_posix()}"
            for path in (source / directory).rglob("*")
            if path.is_file() and not any(part.startswith((".", "__")) for part in path.parts[-2:])
        }
        assert files - names == set()
    assert not [name for name in names if name.startswith(("tests/", "clients/", "benchmarks/"))]
    assert any(name.endswith("/LICENSE") for name in names)
    for line in ("Name: agentzero-api", "License: MIT", "Requires-Python: >=3.11"):
        assert line in described
    for extra in ("embedded", "mock", "dev"):
        assert f"Provides-Extra: {extra}" in described


def test_an_installed_wheel_finds_its_contract(wheel: Path, tmp_path: Path) -> None:
    """Outside of any checkout the bundled files are used."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = "from server import resources; print(resources.openapi_path())"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()) == tmp_path / "server" / "_bundled" / "openapi.yaml"


def test_a_checkout_reads_the_contract_beside_the_packages() -> None:
    """What is edited is what is served."""
    assert resources.openapi_path() == ROOT / "openapi.yaml"
    assert resources.examples_path() == ROOT / "examples"


def test_a_missing_resource_says_where_it_was_expected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An incomplete installation is told apart from a bug."""
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "server")
    for find in (resources.asyncapi_path, resources.examples_path):
        with pytest.raises(resources.ResourceMissing, match="_bundled"):
            find()


def test_every_requirement_is_pinned(wheel: Path) -> None:
    """`constraints.txt` names an exact version for whatever the distribution asks for."""
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    asked = {Requirement(text) for text in metadata.get_all("Requires-Dist", [])}
    here = {canonicalize_name(r.name) for r in asked if not r.marker or "!=" not in str(r.marker)}
    assert here - pinned == set()
    assert len(here) > 20
