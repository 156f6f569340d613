"""Making, keeping and publishing the keys of access tokens, for each of the three algorithms.

The secret part is 32 random bytes for HS256, PKCS #8 (DER) for RS256, the 32 bytes of RFC 8032 for
EdDSA, which here is Ed25519 only.
"""

from __future__ import annotations

import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from hive.token_keys import TokenAlgorithm
from server.keys import SigningKey

HS256_BYTES = 32
RSA_BITS = 3072
MIN_RSA_BITS = 2048
_KID_BYTES = 8


def generate(algorithm: TokenAlgorithm) -> SigningKey:
    """Make a key under a new random kid. RSA takes some tenths of a second: not on the loop."""
    kid = secrets.token_hex(_KID_BYTES)
    if algorithm is TokenAlgorithm.RS256:
        rsa = generate_private_key(public_exponent=65_537, key_size=RSA_BITS)
        return SigningKey(kid, algorithm.value, rsa.public_key(), rsa)
    return restore(kid, algorithm, secrets.token_bytes(HS256_BYTES))


def secret_part(key: SigningKey) -> bytes:
    """What `restore` needs besides kid and algorithm."""
    if isinstance(key.private, RSAPrivateKey):
        return key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(key.private, Ed25519PrivateKey):
        return key.private.private_bytes_raw()
    return bytes(key.private)


def restore(kid: str, algorithm: TokenAlgorithm, secret: bytes) -> SigningKey:
    """The key of `secret_part`. Raises ValueError for what is no key of the algorithm."""
    if algorithm is TokenAlgorithm.HS256:
        return SigningKey(kid, algorithm.value, secret, secret)
    if algorithm is TokenAlgorithm.EDDSA:
        ed25519 = Ed25519PrivateKey.from_private_bytes(secret)
        return SigningKey(kid, algorithm.value, ed25519.public_key(), ed25519)
    # Its seal proves that we made it; testing the primes again would hold the loop for 0.1 s.
    rsa = load_der_private_key(secret, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(rsa, RSAPrivateKey):
        raise ValueError(f"the key {kid} is no RSA key")  # noqa: TRY004 - the bytes are wrong
    return SigningKey(kid, algorithm.value, rsa.public_key(), rsa)


def require_strong(key: SigningKey) -> None:
    """Raise ValueError for another algorithm, a key of another kind, or one that is too weak."""
    public = key.public
    if key.algorithm not in set(TokenAlgorithm):
        raise ValueError(f"{key.algorithm} is not one of {', '.join(TokenAlgorithm)}")
    if key.algorithm == TokenAlgorithm.HS256:
        if not isinstance(public, bytes) or len(public) < HS256_BYTES:
            raise ValueError(f"the key {key.kid} needs {HS256_BYTES} bytes (RFC 7518, 3.2)")
    elif key.algorithm == TokenAlgorithm.RS256:
        if not isinstance(public, RSAPublicKey) or public.key_size < MIN_RSA_BITS:
            raise ValueError(f"the key {key.kid} needs {MIN_RSA_BITS} bits (RFC 7518, 3.3)")
    elif not isinstance(public, Ed25519PublicKey):
        raise ValueError(f"the key {key.kid} is not one of Ed25519 (RFC 8037)")


def public_jwk(key: SigningKey) -> dict[str, str] | None:
    """The public key as a JSON Web Key (RFC 7517); None for HS256, of which nothing is public."""
    members: dict[str, Any]
    if isinstance(key.public, RSAPublicKey):
        members = RSAAlgorithm.to_jwk(key.public, as_dict=True)
        members = {name: members[name] for name in ("kty", "n", "e")}
    elif isinstance(key.public, Ed25519PublicKey):
        members = OKPAlgorithm.to_jwk(key.public, as_dict=True)
        members = {name: members[name] for name in ("kty", "crv", "x")}
    else:
        return None
    return {"kid": key.kid, "alg": key.algorithm, "use": "sig", **members}
