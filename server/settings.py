"""The settings of a node: read once from the environment, typed, every error reported at once.

Every variable is `AGENTZERO_<NAME>`; docs/operations.md lists them. `load_settings()` is the only
place that reads the environment. Secrets are `SecretStr`: neither `repr()` nor an error shows them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hive.networks import InvalidNetwork, read_networks
from server.password_policy import MAX_CHARACTERS, WeakPassword, check_password
from server.settings_checks import Contradiction, check_origin, check_secret

PREFIX = "AGENTZERO_"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """The environment does not describe a node that can run; `problems` names each variable."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class Settings(BaseSettings):
    """What an operator can decide. Seconds, days and bytes are in the names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_redirect_port: int | None = Field(None, ge=0, le=65_535)
    allow_plaintext: bool = False
    data_dir: Path = Path("var")

    mongodb_uri: SecretStr = SecretStr("")
    mongodb_database: str = Field("agentzero", pattern=r"^[A-Za-z0-9_-]{1,63}$")
    redis_url: SecretStr = SecretStr("")
    sql_url: SecretStr = SecretStr("")

    secret_key: SecretStr = SecretStr("")
    admin_password: SecretStr = SecretStr("")
    access_token_seconds: int = Field(3_600, ge=60, le=86_400)
    token_algorithm: Literal["", "HS256", "RS256", "EdDSA"] = ""
    refresh_token_days: int = Field(30, ge=1, le=365)

    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    admin_allowlist: Annotated[tuple[str, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("http://localhost:3000",)
    max_body_bytes: int = Field(1_048_576, ge=1_024, le=8_388_608)
    max_artifact_bytes: int = Field(16_777_216, ge=1_024, le=67_108_864)
    max_task_artifact_bytes: int = Field(67_108_864, ge=1_024, le=1_073_741_824)
    max_connections: int = Field(16_384, ge=16, le=1_048_576)
    max_connections_per_address: int = Field(4_096, ge=1, le=1_048_576)
    rate_limit_enabled: bool = True
    rate_limit_read: int = Field(100, ge=1, le=1_000_000)
    rate_limit_write: int = Field(20, ge=1, le=1_000_000)
    rate_limit_heavy: int = Field(5, ge=1, le=1_000_000)
    rate_limit_task_submit: int = Field(50, ge=1, le=1_000_000)
    rate_limit_auth: int = Field(20, ge=1, le=1_000_000)
    rate_limit_agent: int = Field(6_000, ge=1, le=1_000_000)
    rate_limit_address: int = Field(600, ge=1, le=1_000_000)
    rate_limit_nodes: int = Field(1, ge=1, le=1_000)
    max_concurrent_per_principal: int = Field(64, ge=1, le=10_000)
    max_running: int = Field(512, ge=16, le=100_000)
    load_shedding_enabled: bool = True
    contract_referee: bool = False
    response_cache: Literal["off", "memory", "redis"] = "memory"

    log_format: Literal["json", "console"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    lease_seconds: int = Field(30, ge=1, le=3_600)
    heartbeat_seconds: float = Field(25, ge=0.5, le=300)
    agent_timeout_seconds: int = Field(45, ge=1, le=3_600)
    max_open_tasks_per_owner: int = Field(100_000, ge=1, le=100_000_000)
    cancel_grace_seconds: int = Field(30, ge=1, le=3_600)
    priority_age_seconds: float = Field(300, ge=0, le=86_400)
    task_retention_days: int = Field(30, ge=0, le=3_650)
    log_lines_per_task: int = Field(100_000, ge=100, le=10_000_000)
    event_retention_days: int = Field(7, ge=1, le=365)
    audit_retention_days: int = Field(90, ge=1, le=3_650)
    drain_seconds: int = Field(10, ge=1, le=14)

    @property
    def embedded_mongodb(self) -> bool:
        """Whether this node starts its own mongod."""
        return not self.mongodb_uri.get_secret_value()

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return _split(value)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        parts = _split(value)
        return tuple(map(ipaddress.ip_network, parts)) if isinstance(parts, tuple) else parts

    @field_validator("admin_allowlist", mode="before")
    @classmethod
    def _split_allowlist(cls, value: object) -> object:
        return _split(value)

    @field_validator("admin_allowlist")
    @classmethod
    def _check_allowlist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                read_networks([text], pointer="")
            except InvalidNetwork as error:
                message = f"{text!r}: {error.detail}"
                raise ValueError(message) from None
        return read_networks(value, pointer="")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            check_origin(origin)
        return value

    @field_validator("log_level", "log_format", "response_cache", mode="before")
    @classmethod
    def _fold_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("mongodb_uri")
    @classmethod
    def _check_mongodb_uri(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "mongodb", "mongodb+srv")

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "redis", "rediss", "unix")

    @field_validator("response_cache")
    @classmethod
    def _check_response_cache(cls, value: str, info: ValidationInfo) -> str:
        if value == "redis" and not info.data.get("redis_url", SecretStr("")).get_secret_value():
            message = f"redis needs {PREFIX}REDIS_URL"
            raise ValueError(message)
        return value

    @field_validator("sql_url")
    @classmethod
    def _check_sql_url(cls, value: SecretStr) -> SecretStr:
        return _with_scheme(value, "sqlite", "postgresql", "postgresql+psycopg")

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, value: SecretStr) -> SecretStr:
        if secret := value.get_secret_value():
            check_secret(secret)
        return value

    @field_validator("admin_password")
    @classmethod
    def _check_admin_password(cls, value: SecretStr) -> SecretStr:
        password = value.get_secret_value()
        if not password:
            return value
        if not MIN_PASSWORD <= len(password) <= MAX_CHARACTERS:
            message = f"must have {MIN_PASSWORD} to {MAX_CHARACTERS} characters"
            raise ValueError(message)
        try:
            check_password(password, username="admin")
        except WeakPassword as error:
            raise ValueError(error.detail) from None
        return value

    @field_validator("agent_timeout_seconds")
    @classmethod
    def _check_agent_timeout(cls, value: int, info: ValidationInfo) -> int:
        if value <= info.data.get("heartbeat_seconds", 0):
            message = (
                f"must be more than {PREFIX}HEARTBEAT_SECONDS, "
                "or every agent is lost between two heartbeats"
            )
            raise ValueError(message)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller gives: `load_settings` reads the environment, nothing else does."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


MIN_PASSWORD = 12


class _Environment(EnvSettingsSource):
    """Takes the fields from a mapping; an empty variable counts as not set."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._env.items() if value}


Check = Callable[[Settings], Iterable[Contradiction]]


def load_settings(env: Mapping[str, str] | None = None, *checks: Check) -> Settings:
    """The settings that `env` (default: the process environment) describes.

    Raises `SettingsError` with one line for each variable that is wrong, and for what `checks` find
    among those that are not.
    """
    settings, problems, wrong = _read(_Environment(os.environ if env is None else env)())
    for check in checks:
        problems += [
            _describe_together(found) for found in check(settings) if wrong.isdisjoint(found.fields)
        ]
    if problems:
        raise SettingsError(problems)
    return settings


def _read(given: Mapping[str, Any]) -> tuple[Settings, list[str], set[str]]:
    """The settings without those that are wrong, what is wrong, and with which fields."""
    problems: list[str] = []
    wrong: set[str] = set()
    while True:
        try:
            right = {name: value for name, value in given.items() if name not in wrong}
            return Settings(**right), problems, wrong
        except ValidationError as error:
            # What is found later follows from what was left out.
            problems = problems or [_describe(item["loc"], item["msg"]) for item in error.errors()]
            found = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
            if found <= wrong:
                raise SettingsError(problems) from None
            wrong |= found


def _describe_together(found: Contradiction) -> str:
    names = ", ".join(f"{PREFIX}{field.upper()}" for field in found.fields)
    return f"{names}: {found.reason}"


def find_unknown_variables(env: Mapping[str, str] | None = None) -> list[str]:
    """Names with our prefix that are no setting: misspelt, or meant for another program."""
    known = {f"{PREFIX}{field}".upper() for field in Settings.model_fields}
    names = (name.upper() for name in (os.environ if env is None else env))
    return sorted(name for name in names if name.startswith(PREFIX) and name not in known)


def _describe(location: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    if not location:
        return text
    return f"{PREFIX}{str(location[0]).upper()}: {text[0].lower()}{text[1:]}"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _with_scheme(value: SecretStr, *schemes: str) -> SecretStr:
    url = value.get_secret_value()
    if url and url.partition("://")[0] not in schemes:
        message = f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        raise ValueError(message)
    return value
