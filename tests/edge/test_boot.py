"""Weak and contradictory configuration (bar T5): a server does not start, and says all of why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from server.settings import SettingsError, load_settings
from server.settings_checks import find_contradictions
from server.start_checks import find_obstacles
from tests.edge.certificates import DAY, write_pair
from tests.servers import ROOT

SECRET = "kQ7v3nX9pL2mZ8rT5wY1cB6hJ4dF0gSa"
REFUSED = 2

WEAK: dict[str, tuple[dict[str, str], str]] = {
    "short secret": ({"SECRET_KEY": "kQ7v3nX9pL2mZ8r"}, "SECRET_KEY: must be at least 32"),
    "31 bytes": ({"SECRET_KEY": SECRET[:31]}, "SECRET_KEY: must be at least 32"),
    "few characters": ({"SECRET_KEY": "abcabc" * 8}, "SECRET_KEY: must be at least 32"),
    "repeated": ({"SECRET_KEY": "k7Qx2Lp9" * 5}, "SECRET_KEY: repeats itself"),
    "counted up": (
        {"SECRET_KEY": "abcdefghijklmnopqrstuvwxyz0123456789"},
        "SECRET_KEY: is counted up",
    ),
    "placeholder": (
        {"SECRET_KEY": "please-change-me-in-production-1234"},
        "SECRET_KEY: is a placeholder",
    ),
    "tutorial": (
        {"SECRET_KEY": "django-insecure-x9$kq3!v7z@m2p5w8t"},
        "SECRET_KEY: is a placeholder",
    ),
    "default": (
        {"SECRET_KEY": "my_super_secret_jwt_key_0x5f3759df"},
        "SECRET_KEY: is a placeholder",
    ),
    "common password": ({"ADMIN_PASSWORD": "password1234"}, "ADMIN_PASSWORD: "),
    "short password": ({"ADMIN_PASSWORD": "x7$k"}, "ADMIN_PASSWORD: must have 12"),
    "one secret for all": (
        {"SECRET_KEY": SECRET, "ADMIN_PASSWORD": SECRET},
        "ADMIN_PASSWORD, AGENTZERO_SECRET_KEY: are the same",
    ),
    "any page": ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS: .* would let every page in"),
    "any page beside one": (
        {"CORS_ORIGINS": "https://a.example,*"},
        "CORS_ORIGINS: .* would let every page in",
    ),
    "any subdomain": ({"CORS_ORIGINS": "https://*.a.example"}, "CORS_ORIGINS: .* would let every"),
    "null origin": ({"CORS_ORIGINS": "null"}, "CORS_ORIGINS: .* would let every page in"),
    "origin with a path": (
        {"CORS_ORIGINS": "https://a.example/"},
        "CORS_ORIGINS: .* not an origin",
    ),
    "origin in capitals": ({"CORS_ORIGINS": "https://A.example"}, "CORS_ORIGINS: .* not an origin"),
    "origin with its port": (
        {"CORS_ORIGINS": "https://a.example:443"},
        "CORS_ORIGINS: .* not an origin",
    ),
    "origin with a user": (
        {"CORS_ORIGINS": "https://u@a.example"},
        "CORS_ORIGINS: .* not an origin",
    ),
    "unprotected page": ({"CORS_ORIGINS": "http://a.example"}, "CORS_ORIGINS: .* is not protected"),
    "certificate without key": ({"TLS_CERT": "/x.pem"}, "TLS_KEY: .* go together"),
    "key without certificate": ({"TLS_KEY": "/x.key"}, "TLS_CERT: .* go together"),
    "redirect to nowhere": ({"TLS_REDIRECT_PORT": "8080"}, "TLS_REDIRECT_PORT: there is no port"),
    "open to the network": ({"HOST": "0.0.0.0"}, "HOST: 0.0.0.0 can be reached by other machines"),
    "open to IPv6": ({"HOST": "::"}, "HOST: :: can be reached by other machines"),
    "open by name": ({"HOST": "hive.example"}, "HOST: hive.example can be reached"),
    "everybody a proxy": ({"TRUSTED_PROXIES": "0.0.0.0/0"}, "TRUSTED_PROXIES: trusts everybody"),
    "everybody a proxy by IPv6": ({"TRUSTED_PROXIES": "10.0.0.1,::/0"}, "TRUSTED_PROXIES: trusts"),
    "w:1": ({"MONGODB_URI": "mongodb://db/?w=1"}, "MONGODB_URI: w=1"),
    "w:0": ({"MONGODB_URI": "mongodb://db/?replicaSet=a&w=0"}, "MONGODB_URI: w=0"),
    "no journal": ({"MONGODB_URI": "mongodb://db/?journal=false"}, "MONGODB_URI: journal=false"),
    "no retries": ({"MONGODB_URI": "mongodb://db/?retryWrites=false"}, "MONGODB_URI: retrywrites"),
    "stale reads": (
        {"MONGODB_URI": "mongodb://db/?readPreference=secondaryPreferred"},
        "MONGODB_URI: readpreference=secondaryPreferred",
    ),
    "uncommitted reads": (
        {"MONGODB_URI": "mongodb+srv://db/x?readConcernLevel=local"},
        "MONGODB_URI: readconcernlevel=local",
    ),
    "any certificate of MongoDB": (
        {"MONGODB_URI": "mongodb://db/?tlsAllowInvalidCertificates=true"},
        "MONGODB_URI: tlsallowinvalidcertificates=true",
    ),
    "any certificate of Redis": (
        {"REDIS_URL": "rediss://db/0?ssl_cert_reqs=none"},
        "REDIS_URL: ssl_cert_reqs=none",
    ),
    "identities in memory": ({"SQL_URL": "sqlite://"}, "SQL_URL: keeps identities in memory"),
    "identities in :memory:": ({"SQL_URL": "sqlite:///:memory:"}, "SQL_URL: keeps identities"),
    "SQL loses commits": (
        {"SQL_URL": "postgresql://db/x?options=-csynchronous_commit%3Doff"},
        "SQL_URL: synchronous_commit",
    ),
    "SQL in the clear": (
        {"SQL_URL": "postgresql://u:hunter2@db/x?sslmode=disable"},
        "SQL_URL: sslmode=disable",
    ),
}


def problems_of(tmp_path: Path, **settings: str) -> list[str]:
    """Why a server does not start with these settings; nothing when it would."""
    env = {"DATA_DIR": str(tmp_path / "var"), **settings}
    try:
        load_settings(
            {f"AGENTZERO_{name}": value for name, value in env.items()},
            find_contradictions,
            find_obstacles,
        )
    except SettingsError as error:
        return error.problems
    return []


@pytest.mark.parametrize("case", WEAK)
def test_weak_settings_are_refused(tmp_path: Path, case: str) -> None:
    """The variable is named, and the one reason; no secret is shown."""
    settings, expected = WEAK[case]
    (problem,) = problems_of(tmp_path, **settings)
    with pytest.raises(AssertionError, match=f"AGENTZERO_{expected}"):
        raise AssertionError(problem)
    for name in ("SECRET_KEY", "ADMIN_PASSWORD"):
        assert settings.get(name, SECRET) not in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"HOST": "localhost"},
        {"HOST": "127.0.0.2"},
        {"HOST": "::1"},
        {"HOST": "0.0.0.0", "ALLOW_PLAINTEXT": "1"},
        {"HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.0/8"},
        {"CORS_ORIGINS": "https://a.example,https://b.example:8443,http://localhost:3000"},
        {"CORS_ORIGINS": "http://127.0.0.1:3000,http://[::1]:3000"},
        {"CORS_ORIGINS": "http://a.example", "ALLOW_PLAINTEXT": "1"},
        {"SECRET_KEY": SECRET, "ADMIN_PASSWORD": "correct horse battery staple"},
        {"SECRET_KEY": "3f9a1c0e7b5d2846af31e09c6d7b8542"},
        {
            "MONGODB_URI": "mongodb://db/?replicaSet=rs&w=majority&journal=true&readPreference=primary"
        },
        {"SQL_URL": "sqlite:////srv/identities.sqlite3"},
        {"SQL_URL": "postgresql://u:p@db/x?sslmode=verify-full"},
        {"SQL_URL": "postgresql://u:p@127.0.0.1/x?sslmode=disable"},
        {"REDIS_URL": "rediss://db/0?ssl_cert_reqs=required"},
    ],
)
def test_sound_settings_are_taken(tmp_path: Path, settings: dict[str, str]) -> None:
    """What others need is no weakness."""
    assert problems_of(tmp_path, **settings) == []


def test_several_nodes_need_stores_that_they_share(tmp_path: Path) -> None:
    """Redis, MongoDB and PostgreSQL: each that is missing is named."""
    stores = {
        "REDIS_URL": "redis://db",
        "MONGODB_URI": "mongodb://db/?replicaSet=rs",
        "SQL_URL": "postgresql://u:p@db/x",
    }
    problems = problems_of(tmp_path, RATE_LIMIT_NODES="3")
    assert [problem.partition(":")[0].removeprefix("AGENTZERO_") for problem in problems] == [
        *stores
    ]
    assert problems_of(tmp_path, RATE_LIMIT_NODES="3", **stores) == []


def test_files_of_tls_are_looked_at(tmp_path: Path) -> None:
    """Weak, ended, exposed, not a pair: each by its variable."""
    weak = write_pair(tmp_path, key=rsa.generate_private_key(65_537, 1_024), ends=-DAY / 2)
    other = write_pair(tmp_path, "other")
    other.key.chmod(0o604)
    problems = problems_of(tmp_path, TLS_CERT=str(weak.certificate), TLS_KEY=str(other.key))
    named = [problem.partition(":")[0].removeprefix("AGENTZERO_") for problem in problems]
    assert named == ["TLS_CERT", "TLS_CERT", "TLS_KEY", "TLS_KEY"]
    good = write_pair(tmp_path, "good")
    settings = {"TLS_CERT": str(good.certificate), "TLS_KEY": str(good.key), "HOST": "0.0.0.0"}
    assert problems_of(tmp_path, **settings) == []
    (problem,) = problems_of(tmp_path, **settings, PORT="8443", TLS_REDIRECT_PORT="8443")
    assert "are one and the same port" in problem


def test_data_directory_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    """A file in its place, also further up."""
    (tmp_path / "file").touch()
    for place in ("file", "file/var"):
        (problem,) = problems_of(tmp_path, DATA_DIR=str(tmp_path / place))
        assert problem.startswith("AGENTZERO_DATA_DIR:")
        assert "is no directory" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """Not only when the first file is to be made."""
    tmp_path.chmod(0o500)
    (problem,) = problems_of(tmp_path)
    assert "can't be written to" in problem


@pytest.mark.parametrize("name", ["secret.key", "operator.key"])
def test_secret_that_everybody_could_read_is_refused(tmp_path: Path, name: str) -> None:
    """It is none any more. One whose directory kept others out is only put right."""
    directory = tmp_path / "var"
    directory.mkdir(0o700)
    file = directory / name
    file.write_text(SECRET)
    file.chmod(0o644)
    assert problems_of(tmp_path) == []
    directory.chmod(0o755)
    (problem,) = problems_of(tmp_path)
    assert problem.startswith("AGENTZERO_DATA_DIR: everybody on this machine can read")
    file.chmod(0o600)
    assert problems_of(tmp_path) == []


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    """Of single settings, of what they are together, and of files: by the command, in one go."""
    (tmp_path / "file").touch()
    pair = write_pair(tmp_path, ends=-DAY / 2)
    wrong = {
        "PORT": "70000",
        "SECRET_KEY": "change-me-change-me-change-me-change-me",
        "CORS_ORIGINS": "null",
        "HOST": "0.0.0.0",
        "TRUSTED_PROXIES": "0.0.0.0/0",
        "MONGODB_URI": "mongodb://db/?w=1",
        "SQL_URL": "sqlite://",
        "TLS_CERT": str(pair.certificate),
        "TLS_KEY": str(pair.key),
        "DATA_DIR": str(tmp_path / "file"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve"],
        cwd=ROOT,
        env={**os.environ, **{f"AGENTZERO_{name}": value for name, value in wrong.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == REFUSED
    named = {line.partition(":")[0].removeprefix("AGENTZERO_") for line in done.stderr.splitlines()}
    # With TLS, and a key that is kept, nothing is wrong with HOST and TLS_KEY.
    assert named - {"These settings are wrong"} == wrong.keys() - {"HOST", "TLS_KEY"}
    assert wrong["SECRET_KEY"] not in done.stderr
    assert not (tmp_path / "var").exists()
    assert "Traceback" not in done.stderr
