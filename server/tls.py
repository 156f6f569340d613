"""The server's certificate (RFC 8446, RFC 9325): what is accepted, and how it is renewed.

Life: `read_certificate` at the start, which refuses a pair that would not protect anybody; SIGHUP
calls `Renewal`, which takes new files for new connections. Those that are open go on as they are,
and files that are no good change nothing.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from tornado.httpserver import HTTPServer

MIN_RSA_BITS = 2_048
MIN_CURVE_BITS = 256
WARNED_BEFORE = timedelta(days=14)
# TLS 1.2 with forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL"
_BROKEN_HASHES = frozenset({"md5", "sha1"})

log = structlog.stdlib.get_logger("server.tls")


class CertificateRefused(Exception):
    """The files don't make a server that can be trusted; `problems` says why, one by one."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is in use: its context, its chain as PEM, and when it ends."""

    context: ssl.SSLContext = field(repr=False)
    chain: str = field(repr=False)
    ends_at: datetime


def read_certificate(certificate: Path, key: Path) -> Certificate:
    """Read a chain and its private key, both PEM. Raises CertificateRefused."""
    chain, private = _read(certificate), _read(key)
    problems = [
        f"AGENTZERO_{name}: {found}"
        for name, found in (("TLS_CERT", chain), ("TLS_KEY", private))
        if isinstance(found, str)
    ]
    if isinstance(chain, str) or isinstance(private, str):
        raise CertificateRefused(problems)
    problems = list(_find_problems(certificate, chain, key, private))
    if problems:
        raise CertificateRefused(problems)
    context = make_context()
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateRefused([f"AGENTZERO_TLS_CERT: OpenSSL refuses it: {error}"]) from error
    if (chain, private) != (_read(certificate), _read(key)):
        raise CertificateRefused(["AGENTZERO_TLS_CERT: the files changed while they were read"])
    leaf = x509.load_pem_x509_certificates(chain)[0]
    return Certificate(context, chain.decode("ascii", "replace"), leaf.not_valid_after_utc)


def make_context() -> ssl.SSLContext:
    """A server's context without a certificate: TLS 1.2 and 1.3, HTTP/1.1 by ALPN (RFC 7301)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= (
        ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    )
    return context


def warn_before_end(certificate: Certificate) -> None:
    """Say in the log when the certificate ends soon."""
    if certificate.ends_at - datetime.now(UTC) < WARNED_BEFORE:
        log.warning("tls.ends_soon", ends_at=certificate.ends_at.isoformat())


@dataclass(frozen=True, slots=True)
class Renewal:
    """Takes new files for the connections to come; `renewed` hears of each new certificate."""

    server: HTTPServer
    certificate: Path
    key: Path
    renewed: Callable[[Certificate], None]

    def __call__(self) -> None:
        """Read the files again; when they are no good, say so and go on with the old ones."""
        try:
            found = read_certificate(self.certificate, self.key)
        except CertificateRefused as error:
            log.error("tls.not_renewed", problems=error.problems)  # noqa: TRY400 - it names all
            return
        # Tornado takes it from here for each connection that it accepts.
        self.server.ssl_options = found.context
        self.renewed(found)
        log.info("tls.renewed", ends_at=found.ends_at.isoformat())
        warn_before_end(found)


def _read(path: Path) -> bytes | str:
    """The file, or why it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"


def _find_problems(certificate: Path, chain: bytes, key: Path, private: bytes) -> Iterator[str]:
    leaf = _find_leaf(chain)
    if leaf is None:
        yield f"AGENTZERO_TLS_CERT: {certificate} holds no certificate in PEM"
    else:
        yield from (f"AGENTZERO_TLS_CERT: {certificate} {why}" for why in _weaknesses(leaf))
    if key.stat().st_mode & stat.S_IROTH:
        yield f"AGENTZERO_TLS_KEY: everybody can read {key}; chmod 600, and renew the certificate"
    try:
        loaded = load_pem_private_key(private, password=None)
    except TypeError:
        yield f"AGENTZERO_TLS_KEY: {key} is encrypted, and nobody can be asked for its password"
        return
    except ValueError:
        yield f"AGENTZERO_TLS_KEY: {key} holds no private key in PEM"
        return
    if leaf is not None and _encoded(leaf.public_key()) != _encoded(loaded.public_key()):
        yield f"AGENTZERO_TLS_KEY: {key} is not the key of {certificate}"


def _find_leaf(chain: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        return None


def _weaknesses(leaf: x509.Certificate) -> Iterator[str]:
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc <= now:
        yield f"has ended on {leaf.not_valid_after_utc.isoformat()}"
    if leaf.not_valid_before_utc > now:
        yield f"begins only on {leaf.not_valid_before_utc.isoformat()}"
    hashed = leaf.signature_hash_algorithm
    if hashed is not None and hashed.name in _BROKEN_HASHES:
        yield f"is signed with {hashed.name}, which can be forged"
    public = leaf.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < MIN_RSA_BITS:
            yield f"has an RSA key of {public.key_size} bits; {MIN_RSA_BITS} are the least"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        if public.curve.key_size < MIN_CURVE_BITS:
            yield f"has a curve of {public.curve.key_size} bits; {MIN_CURVE_BITS} are the least"
    elif not isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        yield "has a key that is neither RSA nor of an elliptic curve"


def _encoded(public: object) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return] # A union of all kinds of keys.
