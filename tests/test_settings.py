"""Settings: typed, all errors at once, no secret shown."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from server.settings import Settings, SettingsError, find_unknown_variables, load_settings

SECRET = "correct-horse-battery-staple-0123456789"


def test_nothing_set_gives_a_node_on_loopback_with_its_own_mongodb() -> None:
    """Without configuration a node is private and complete."""
    settings = load_settings({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.data_dir == Path("var")
    assert settings.embedded_mongodb


def test_values_come_typed() -> None:
    """Numbers, paths, lists and flags are parsed."""
    settings = load_settings(
        {
            "AGENTZERO_PORT": "0",
            "AGENTZERO_DATA_DIR": "/srv/hive",
            "AGENTZERO_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
            "AGENTZERO_CORS_ORIGINS": "https://a.example,http://localhost:3000",
            "AGENTZERO_CONTRACT_REFEREE": "1",
            "AGENTZERO_LOG_LEVEL": "WARNING",
            "AGENTZERO_MONGODB_URI": "mongodb://db/?replicaSet=rs",
            "AGENTZERO_HEARTBEAT_SECONDS": "0.5",
        }
    )
    assert settings.port == 0
    assert settings.data_dir == Path("/srv/hive")
    assert settings.trusted_proxies == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.contract_referee
    assert settings.log_level == "warning"
    assert not settings.embedded_mongodb
    assert settings.heartbeat_seconds == 0.5


def test_an_empty_variable_counts_as_not_set() -> None:
    """`AGENTZERO_PORT= agentzero serve` means the default."""
    assert load_settings({"AGENTZERO_PORT": ""}).port == 8000


def test_all_errors_come_at_once_and_name_their_variables() -> None:
    """An operator mends everything in one round."""
    wrong = {
        "AGENTZERO_PORT": "70000",
        "AGENTZERO_MONGODB_URI": "http://db",
        "AGENTZERO_SQL_URL": "mysql://db",
        "AGENTZERO_REDIS_URL": "db",
        "AGENTZERO_TRUSTED_PROXIES": "proxy.example",
        "AGENTZERO_CORS_ORIGINS": "*",
        "AGENTZERO_SECRET_KEY": "short",
        "AGENTZERO_ADMIN_PASSWORD": "short",
        "AGENTZERO_LOG_FORMAT": "xml",
        "AGENTZERO_LEASE_SECONDS": "0",
        "AGENTZERO_MAX_BODY_BYTES": "lots",
        "AGENTZERO_RATE_LIMIT_ENABLED": "perhaps",
        "AGENTZERO_MONGODB_DATABASE": "a.b",
        "AGENTZERO_AGENT_TIMEOUT_SECONDS": "20",
    }
    with pytest.raises(SettingsError) as refusal:
        load_settings(wrong)
    named = [problem.partition(":")[0] for problem in refusal.value.problems]
    assert sorted(named) == sorted(wrong)


@pytest.mark.parametrize("weak", ["short", "a" * 64, "ababababababababababababababababab"])
def test_a_weak_secret_key_is_refused(weak: str) -> None:
    """HS256 needs 32 random bytes."""
    with pytest.raises(SettingsError, match="AGENTZERO_SECRET_KEY"):
        load_settings({"AGENTZERO_SECRET_KEY": weak})


def test_no_secret_is_shown_by_repr_or_error() -> None:
    """A secret that was typed into the wrong variable stays out of the log too."""
    settings = load_settings(
        {"AGENTZERO_SECRET_KEY": SECRET, "AGENTZERO_SQL_URL": "postgresql://u:hunter2@db/x"}
    )
    assert SECRET not in repr(settings)
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingsError) as refusal:
        load_settings({"AGENTZERO_MONGODB_URI": SECRET, "AGENTZERO_PORT": SECRET})
    assert SECRET not in str(refusal.value)


def test_unknown_variables_are_found() -> None:
    """A misspelt name is pointed out; names without our prefix are nobody's business."""
    env = {"AGENTZERO_PROT": "1", "AGENTZERO_PORT": "1", "HOME": "/"}
    assert find_unknown_variables(env) == ["AGENTZERO_PROT"]


def test_only_load_settings_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings made in code are what the code said."""
    monkeypatch.setenv("AGENTZERO_PORT", "1234")
    assert Settings().port == 8000
    assert load_settings().port == 1234
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # What the test is about.
