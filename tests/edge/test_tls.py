"""TLS (bar T3): which certificates are taken, what is spoken, and how a new one comes into use."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from structlog.testing import capture_logs
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from agentzero_client import AsyncClient
from server.app import make_http_server
from server.binding import bind
from server.tls import CertificateRefused, Renewal, read_certificate, warn_before_end
from server.tls_redirect import make_redirect_app
from tests.contract.running import HANDLERS, load_small, make_small_app
from tests.edge.certificates import DAY, Pair, write_pair
from tests.servers import ROOT, ServerProcess, wait_until

HSTS = "max-age=63072000; includeSubDomains"


def _refused(certificate: Path, key: Path) -> list[str]:
    with pytest.raises(CertificateRefused) as refusal:
        read_certificate(certificate, key)
    return refusal.value.problems


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65_537, 2_048),
    ],
    ids=["P-256", "P-384", "RSA-2048"],
)
def test_sound_pair_is_taken(tmp_path: Path, key: Any) -> None:
    """The chain is kept as PEM, and the end is known."""
    pair = write_pair(tmp_path, key=key)
    found = read_certificate(pair.certificate, pair.key)
    assert found.chain == pair.certificate.read_text()
    with capture_logs() as logs:
        warn_before_end(found)
    assert logs == []


def test_end_that_is_near_is_told(tmp_path: Path) -> None:
    """Two weeks before, once at each start and renewal."""
    pair = write_pair(tmp_path, ends=13 * DAY)
    with capture_logs() as logs:
        warn_before_end(read_certificate(pair.certificate, pair.key))
    assert [line["event"] for line in logs] == ["tls.ends_soon"]


def test_ed25519_is_taken(tmp_path: Path) -> None:
    """RFC 8410."""
    pair = write_pair(tmp_path, key=ed25519.Ed25519PrivateKey.generate(), algorithm=None)
    assert read_certificate(pair.certificate, pair.key).chain


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"ends": -DAY / 2}, "TLS_CERT: .* has ended on"),
        ({"begins": DAY}, "TLS_CERT: .* begins only on"),
        ({"key": rsa.generate_private_key(65_537, 1_024)}, "an RSA key of 1024 bits"),
        ({"key": ec.generate_private_key(ec.SECP192R1())}, "a curve of 192 bits"),
        ({"key": dsa.generate_private_key(1_024)}, "neither RSA nor of an elliptic curve"),
        ({"password": b"secret"}, "TLS_KEY: .* is encrypted"),
    ],
    ids=["ended", "future", "RSA-1024", "P-192", "DSA", "encrypted"],
)
def test_weak_pair_is_refused(tmp_path: Path, fault: dict[str, Any], reason: str) -> None:
    """The variable is named, and why."""
    pair = write_pair(tmp_path, **fault)
    with pytest.raises(CertificateRefused, match=reason):
        read_certificate(pair.certificate, pair.key)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Whoever mends it does it in one round."""
    pair = write_pair(tmp_path, ends=-DAY / 2, key=rsa.generate_private_key(65_537, 1_024))
    other = write_pair(tmp_path, "other")
    other.key.chmod(0o644)
    problems = _refused(pair.certificate, other.key)
    words = ("has ended", "1024 bits", "everybody can read", "is not the key of")
    assert len(problems) == len(words)
    for word in words:
        assert any(word in problem for problem in problems), word


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    """Missing files, and files with something else in them."""
    pair = write_pair(tmp_path)
    missing = tmp_path / "missing.pem"
    assert len(_refused(missing, missing)) == 2
    (problem,) = _refused(pair.key, pair.key)
    assert problem.startswith("AGENTZERO_TLS_CERT")
    assert "no certificate in PEM" in problem
    *_, problem = _refused(pair.certificate, pair.certificate)
    assert problem.startswith("AGENTZERO_TLS_KEY")
    assert "no private key in PEM" in problem
    assert "PRIVATE" not in str(_refused(pair.key, missing))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A good certificate for `localhost` and 127.0.0.1."""
    return write_pair(tmp_path)


@asynccontextmanager
async def serving(pair: Pair) -> AsyncIterator[tuple[HTTPServer, int]]:
    """The small server behind TLS."""
    app = make_small_app(bind(load_small(), HANDLERS))
    context = read_certificate(pair.certificate, pair.key).context
    server = make_http_server(app, ssl_options=context)
    (listening,) = bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
    server.add_sockets([listening])
    try:
        yield server, listening.getsockname()[1]
    finally:
        server.stop()
        await server.close_all_connections()


def trusting(pair: Pair) -> ssl.SSLContext:
    """A client's context that trusts this certificate alone."""
    return ssl.create_default_context(cafile=pair.certificate)


async def handshake(port: int, context: ssl.SSLContext) -> ssl.SSLObject:
    """What was agreed on; the connection is closed."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    return found


async def test_tls_1_2_and_1_3_are_spoken(pair: Pair) -> None:
    """With forward secrecy and authenticated encryption, HTTP/1.1 by ALPN."""
    async with serving(pair) as (_, port):
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (None, "TLSv1.3")):
            context = trusting(pair)
            context.set_alpn_protocols(["h2", "http/1.1"])
            context.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
            agreed = await handshake(port, context)
            assert agreed.version() == name
            assert agreed.selected_alpn_protocol() == "http/1.1"
            assert agreed.compression() is None
            cipher = agreed.cipher()
            assert cipher is not None
            assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_older_versions_are_refused(pair: Pair, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 (RFC 8996)."""
    context = trusting(pair)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with serving(pair) as (_, port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(port, context)


@pytest.mark.parametrize(
    "ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "aNULL", "NULL"]
)
async def test_weak_ciphers_are_refused(pair: Pair, ciphers: str) -> None:
    """Without forward secrecy, without authentication, without encryption, with CBC."""
    context = trusting(pair)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    async with serving(pair) as (_, port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(port, context)


async def test_answers_over_tls_ask_for_tls_from_now_on(pair: Pair) -> None:
    """HSTS for two years, on refusals, too; never on an answer without TLS (RFC 6797)."""
    async with (
        serving(pair) as (_, port),
        httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=trusting(pair)) as client,
    ):
        for path in ("/open", "/nope", "/things", "/open/raise/unexpected"):
            answer = await client.get(path)
            assert answer.headers.get_list("strict-transport-security") == [HSTS]


async def test_plaintext_gets_no_answer(pair: Pair) -> None:
    """The port with TLS neither answers nor redirects what comes without."""
    async with serving(pair) as (_, port), httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(
                f"http://127.0.0.1:{port}/things", headers={"Authorization": "Bearer everything"}
            )


async def test_renewed_certificate_is_for_new_connections(tmp_path: Path, pair: Pair) -> None:
    """A connection that is open goes on with the old one; the next gets the new one."""
    heard: list[str] = []
    async with serving(pair) as (server, port):
        url = f"https://localhost:{port}/open"
        renew = Renewal(server, pair.certificate, pair.key, lambda new: heard.append(new.chain))
        old = pair.certificate.read_text()
        async with httpx.AsyncClient(verify=trusting(pair)) as before:
            first = await before.get(url)
            write_pair(tmp_path)
            new = pair.certificate.read_text()
            assert new != old
            renew()
            assert heard == [new]
            again = await before.get(url)
            assert again.extensions["network_stream"] is not None
            assert (first.status_code, again.status_code) == (200, 200)
        async with httpx.AsyncClient(verify=trusting(pair)) as after:
            assert (await after.get(url)).status_code == 200


@pytest.mark.parametrize("fault", ["garbage", "ended", "mismatch", "missing"])
async def test_broken_files_leave_the_old_certificate(
    tmp_path: Path, pair: Pair, fault: str
) -> None:
    """The log says why; the server goes on, also for new connections."""
    trusted = trusting(pair)
    async with serving(pair) as (server, port):
        renew = Renewal(server, pair.certificate, pair.key, lambda _: pytest.fail("not renewed"))
        if fault == "garbage":
            pair.certificate.write_text("no certificate")
        elif fault == "ended":
            write_pair(tmp_path, ends=-DAY / 2)
        elif fault == "mismatch":
            write_pair(tmp_path, "other").key.replace(pair.key)
        else:
            pair.key.unlink()
        with capture_logs() as logs:
            renew()
        assert [line["event"] for line in logs] == ["tls.not_renewed"]
        assert "PRIVATE KEY" not in str(logs)
        async with httpx.AsyncClient(verify=trusted) as client:
            assert (await client.get(f"https://localhost:{port}/open")).status_code == 200


@pytest.fixture
async def plain() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the port without TLS beside the one with it (8443)."""
    server = make_http_server(make_redirect_app(8_443))
    (listening,) = bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
    server.add_sockets([listening])
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{listening.getsockname()[1]}"
    ) as client:
        yield client
    server.stop()
    await server.close_all_connections()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_page_is_led_over(plain: httpx.AsyncClient, method: str) -> None:
    """308, to the same host and path; without HSTS, which nobody may believe here."""
    answer = await plain.request(method, "/health/live", headers={"Host": "hive.example:8080"})
    assert answer.status_code == 308
    assert answer.headers["location"] == "https://hive.example:8443/health/live"
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/v1/agents", {}),
        ("GET", "/API/v1/agents", {}),
        ("GET", "/ws?token=secret", {}),
        ("GET", "/graphql", {}),
        ("POST", "/", {}),
        ("PUT", "/", {}),
        ("TRACE", "/", {}),
        ("PROPFIND", "/", {}),
        ("GET", "/?token=secret", {}),
        ("GET", "/", {"Authorization": "Bearer secret"}),
        ("GET", "/", {"Cookie": "a=b"}),
    ],
)
async def test_api_without_tls_is_refused_and_not_redirected(
    plain: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    """403 `tls-required`: the caller has to mend its address."""
    answer = await plain.request(method, path, headers=headers)
    assert answer.status_code == 403
    assert "location" not in answer.headers
    assert "secret" not in answer.text
    assert answer.json()["code"] == "tls-required"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["evil.example/x?", "user@evil.example", "evil.example\\@a", "a b"]
)
async def test_host_that_is_none_leads_nowhere(plain: httpx.AsyncClient, host: str) -> None:
    """Refused, or the connection is closed."""
    try:
        answer = await plain.get("/", headers={"Host": host})
    except httpx.TransportError:
        return
    assert answer.status_code in (400, 403)
    assert "location" not in answer.headers


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str, Pair]]:
    """`agentzero serve` with a certificate, as users run it."""
    place = tmp_path_factory.mktemp("tls")
    pair = write_pair(place)
    server = ServerProcess(
        place / "var",
        TLS_CERT=str(pair.certificate),
        TLS_KEY=str(pair.key),
        TLS_REDIRECT_PORT="0",
    )
    try:
        yield server, server.start(), pair
    finally:
        server.kill()


async def test_server_command_and_client_speak_tls(
    running: tuple[ServerProcess, str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line knows the server by its own certificate, the client by AGENTZERO_CA_FILE."""
    server, url, pair = running
    assert url.startswith("https://127.0.0.1:")
    said = server.log_path.read_text
    wait_until(lambda: "server.redirects" in said(), "it says where it redirects from")
    _list_users(server)
    key = server.data.find_operator_key()
    monkeypatch.setenv("AGENTZERO_CA_FILE", str(pair.certificate))
    async with AsyncClient(url, api_key=key) as client:
        agent = await client.agents.register("over-tls")
        async with client.watch(["agent.*"], cursor=0) as watch:
            event = await asyncio.wait_for(anext(aiter(watch)), 20)
        assert event.data["agent_id"] == agent.agent_id
    monkeypatch.delenv("AGENTZERO_CA_FILE")
    async with AsyncClient(url, api_key=key, tls=trusting(pair)) as client:
        assert (await client.auth.me()).principal_id


async def test_renewal_on_hangup(running: tuple[ServerProcess, str, Pair]) -> None:
    """SIGHUP; broken files first, then new ones for another name: commands go on all the time."""
    server, url, pair = running
    trusted = trusting(pair)
    pair.certificate.write_text("no certificate")
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "tls.not_renewed" in server.log_path.read_text(), "the refusal is logged")
    async with httpx.AsyncClient(verify=trusted) as client:
        assert (await client.get(f"{url}/health/live")).status_code == 200
    renewed = write_pair(pair.key.parent, names=("hive.example",), addresses=())
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "tls.renewed" in server.log_path.read_text(), "the renewal is logged")
    async with httpx.AsyncClient(verify=trusting(renewed)) as client:
        answer = await client.get(f"{url}/health/live", extensions={"sni_hostname": "hive.example"})
        assert answer.status_code == 200
    _list_users(server)


def _list_users(server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "user", "list"],
        cwd=ROOT,
        env={**os.environ, "AGENTZERO_DATA_DIR": str(server.data.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "admin" in done.stdout
