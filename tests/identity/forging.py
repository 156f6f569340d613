"""Tokens that we never issued: what RFC 8725 and the history of JWT libraries warn of.

Nearly all are signed with the right key, which no attacker has: each is to fail by its own flaw.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from hive.token_keys import TokenAlgorithm
from server.key_material import generate
from server.keys import SigningKey

ISSUER = "http://127.0.0.1:8000"
AUDIENCE = "agentzero-api"
USER_ID = "usr_01m800kkaaep4r1p5rqd7r13fr"
SESSION_ID = "ses_01m800kkbrez1vcmc27j99r4p4"
CLAIMS = ("iss", "aud", "sub", "role", "sid", "jti", "iat", "nbf", "exp")
ALGORITHMS = tuple(TokenAlgorithm)
_ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

Corpus = Iterator[tuple[str, str]]


def encode(value: object) -> str:
    """One segment: JSON (or the text or bytes given) in base64url without padding."""
    if isinstance(value, str):
        value = value.encode()
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(segment: str) -> bytes:
    """The bytes of a segment."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def sign(header: object, payload: object, key: Any, digest: str = "sha256") -> str:
    """A token whose signature is by the kind of the key, whatever the header says."""
    signed = f"{encode(header)}.{encode(payload)}"
    if isinstance(key, RSAPrivateKey):
        signature = key.sign(signed.encode(), PKCS1v15(), SHA256())
    elif isinstance(key, Ed25519PrivateKey):
        signature = key.sign(signed.encode())
    else:
        signature = hmac.digest(key, signed.encode(), digest)
    return f"{signed}.{encode(signature)}"


@dataclass(frozen=True)
class Forge:
    """A key of the ring, and the claims of a session that lives."""

    key: SigningKey
    issuer: str = ISSUER
    user_id: str = USER_ID
    session_id: str = SESSION_ID
    role: str = "user"

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that hold, with changes; a change to None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": self.user_id,
            "role": self.role,
            "sid": self.session_id,
            "jti": "f" * 32,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        """Our own header, with changes; a change to None takes a field away."""
        header = {"alg": self.key.algorithm, "kid": self.key.kid, "typ": "at+jwt"} | changes
        return {name: value for name, value in header.items() if value is not None}

    def good(self) -> str:
        """A token without a flaw."""
        return self.sign(self.header(), self.claims())

    def sign(self, header: object, payload: object) -> str:
        """A token signed with the key."""
        return sign(header, payload, self.key.private)


def bad_headers(forge: Forge, canary: str = "http://127.0.0.1:1") -> Corpus:
    """Headers that are not ours, under a signature that is."""
    nested: Any = {}
    for _ in range(60):
        nested = {"a": nested}
    own = generate(TokenAlgorithm.EDDSA)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encode(own.public.public_bytes_raw())}
    kid = forge.key.kid
    changes: dict[str, dict[str, Any]] = {
        "no alg": {"alg": None},
        "alg of another hash": {"alg": f"{forge.key.algorithm[:2]}512"},
        "alg in lower case": {"alg": forge.key.algorithm.lower()},
        "alg as list": {"alg": [forge.key.algorithm]},
        "alg as number": {"alg": 256},
        "alg ES256": {"alg": "ES256"},
        "alg PS256": {"alg": "PS256"},
        "alg Ed25519": {"alg": "Ed25519"},
        "no kid": {"kid": None},
        "empty kid": {"kid": ""},
        "unknown kid": {"kid": "nobody"},
        "kid traversal": {"kid": "../../../../dev/null"},
        "kid dots": {"kid": "../"},
        "kid behind dots": {"kid": f"../{kid}"},
        "kid as URL": {"kid": f"{canary}/{kid}"},
        "kid as SQL": {"kid": "x' UNION SELECT 'key'--"},
        "kid as command": {"kid": "|/bin/true"},
        "kid with NUL": {"kid": f"{kid}\0"},
        "kid of 10 kB": {"kid": "k" * 10_000},
        "kid as list": {"kid": [kid]},
        "kid as object": {"kid": {"a": 1}},
        "kid as number": {"kid": 0},
        "kid in upper case": {"kid": kid.upper() + "X"},
        "no typ": {"typ": None},
        "typ JWT": {"typ": "JWT"},
        "typ of a refresh token": {"typ": "rt+jwt"},
        "typ of an ID token": {"typ": "id+jwt"},
        "typ as list": {"typ": ["at+jwt"]},
        "unknown crit": {"crit": ["exp"], "exp": 1},
        "empty crit": {"crit": []},
        "crit as text": {"crit": "b64"},
        "crit b64": {"crit": ["b64"], "b64": True},
        "b64 false": {"b64": False, "crit": ["b64"]},
        "b64 false without crit": {"b64": False},
        "jku": {"jku": f"{canary}/keys"},
        "jwk": {"jwk": jwk},
        "x5u": {"x5u": f"{canary}/chain"},
        "x5c": {"x5c": ["MIIB"]},
        "x5t": {"x5t": "AAAA"},
        "cty JWT": {"cty": "JWT"},
        "zip": {"zip": "DEF"},
        "enc": {"enc": "A256GCM"},
        "nested": {"kid": nested},
    }
    for name, change in changes.items():
        yield name, forge.sign(forge.header(**change), forge.claims())
    for algorithm in ALGORITHMS:
        if algorithm != forge.key.algorithm:
            header = forge.header(alg=algorithm.value)
            yield f"alg {algorithm} for another kid", forge.sign(header, forge.claims())
    embedded = forge.header(jwk=jwk, alg="EdDSA")
    yield "signed with the embedded jwk", sign(embedded, forge.claims(), own.private)
    good = json.dumps(forge.header())
    texts: dict[str, str | bytes] = {
        "2,000 deep header": '{"a":' * 2_000 + "1" + "}" * 2_000,
        "2,000 deep list in the header": f'{good[:-1]},"x":{"[" * 2_000}{"]" * 2_000}}}',
        "header as list": f"[{good}]",
        "header as text": '"HS256"',
        "header null": "null",
        "empty header": "{}",
        "header not JSON": "not json",
        "header not UTF-8": b"\xff\xfe{}",
        "header with BOM": "\ufeff" + good,
        "header UTF-16": good.encode("utf-16"),
        "alg twice": f'{{"alg":"none",{good[1:]}',
        "header with trailing bytes": good + "x",
        "header with NaN": good[:-1] + ',"kid":NaN}',
    }
    for name, text in texts.items():
        yield name, forge.sign(text, forge.claims())


def unsigned(forge: Forge) -> Corpus:
    """Tokens that ask not to be verified."""
    for alg in ("none", "None", "NONE", "nOnE", "", "null"):
        head = encode(forge.header(alg=alg))
        body = encode(forge.claims())
        yield f"alg {alg!r} without a signature", f"{head}.{body}."
        yield f"alg {alg!r} with a signature", f"{head}.{body}.{encode('x' * 32)}"
    head, body = encode(forge.header()), encode(forge.claims())
    yield "empty signature", f"{head}.{body}."
    yield "no signature", f"{head}.{body}"
    yield "signature of zeros", f"{head}.{body}.{encode(bytes(32))}"
    yield "short signature", f"{head}.{body}.{encode(b'x')}"


def bent(forge: Forge) -> Corpus:
    """A good token, spelt another way or changed in one place."""
    good = forge.good()
    head, body, signature = good.split(".")
    other = encode(forge.claims(jti="e" * 32))
    yield "trailing dot", good + "."
    yield "leading dot", "." + good
    yield "four segments", f"{head}.{body}.{signature}.{signature}"
    yield "five segments (JWE)", f"{head}.{body}.{signature}.AAAA.AAAA"
    yield "padding", f"{head}.{body}.{signature}="
    yield "leading space", " " + good
    yield "trailing newline", good + "\n"
    yield "tab inside", f"{head}.\t{body}.{signature}"
    yield "NUL at the end", good + "\0"
    yield "standard alphabet", f"{head}.{body}.{signature[:-2]}+/"
    yield "not ASCII", good + "é"
    yield "lone surrogate", good + "\ud800"
    yield "full-width digits", f"{head}.{body}.{signature[:-1]}1"
    yield "other claims under the signature", f"{head}.{other}.{signature}"
    yield "signature of other claims", f"{head}.{other}.{encode(bytes(range(32)))}"
    yield "JSON serialisation", json.dumps({"protected": head, "payload": body, "signature": ""})
    yield "over 8 KiB", forge.sign(forge.header(), forge.claims(jti="j" * 9_000))
    for name, key in {
        "another key": generate(TokenAlgorithm(forge.key.algorithm)).private,
        "zeros as key": bytes(32),
        "an empty key": b"",
        "the kid as key": forge.key.kid.encode(),
    }.items():
        yield f"signed with {name}", sign(forge.header(), forge.claims(), key)
    yield from _respelt(forge, head, body, signature)
    for text in ("", ".", "..", "...", "Bearer", "null", "undefined", "[object Object]", "a.b.c"):
        yield f"the text {text!r}", text
    yield "a refresh token", "azr_" + "0" * 49
    yield "an unfinished API key", "azk_"


def _respelt(forge: Forge, head: str, body: str, signature: str) -> Corpus:
    """The signature written another way."""
    raw = decode(signature)
    yield "signature with a zero before", f"{head}.{body}.{encode(bytes(1) + raw)}"
    yield "signature with a zero behind", f"{head}.{body}.{encode(raw + bytes(1))}"
    yield "signature cut", f"{head}.{body}.{encode(raw[:-1])}"
    yield "signature twice", f"{head}.{body}.{encode(raw + raw)}"
    if len(raw) % 3:
        # The last digit carries bits that no byte holds: another spelling of it.
        last = _DIGITS[_DIGITS.index(signature[-1]) ^ 1]
        yield "unused bits set", f"{head}.{body}.{signature[:-1]}{last}"
    if isinstance(forge.key.public, bytes):
        twin = sign(forge.header(), forge.claims(), forge.key.private, "sha512")
        yield "SHA-512 under HS256", twin
    elif isinstance(forge.key.public, RSAPublicKey):
        size, modulus = len(raw), forge.key.public.public_numbers().n
        beyond = (int.from_bytes(raw) + modulus).to_bytes(size + 1).lstrip(b"\0")
        yield "signature plus the modulus", f"{head}.{body}.{encode(beyond)}"
        yield "signature one", f"{head}.{body}.{encode((1).to_bytes(size))}"
    else:
        scalar = int.from_bytes(raw[32:], "little") + _ED25519_ORDER
        beyond = raw[:32] + scalar.to_bytes(32, "little")
        yield "signature plus the order", f"{head}.{body}.{encode(beyond)}"
        identity = (1).to_bytes(32, "little") + bytes(32)
        yield "signature of the identity", f"{head}.{body}.{encode(identity)}"


def confused(rsa: Forge, other: Forge) -> Corpus:
    """HS256 tokens keyed with what everybody may know: the public key of an RS256 entry."""
    public: RSAPublicKey = rsa.key.public
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk = RSAAlgorithm.to_jwk(public)
    spellings = {
        "PEM": pem,
        "PEM without the last newline": pem.rstrip(),
        "PEM with CRLF": pem.replace(b"\n", b"\r\n"),
        "PEM with spaces": b" " + pem,
        "PEM with BOM": b"\xef\xbb\xbf" + pem,
        "PKCS#1 PEM": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "DER": der,
        "hash of the DER": hashlib.sha256(der).digest(),
        "JWK": jwk.encode(),
        "JWKS": json.dumps({"keys": [json.loads(jwk)]}).encode(),
        "modulus": public.public_numbers().n.to_bytes(public.key_size // 8),
    }
    for name, spelling in spellings.items():
        for owner in (rsa, other):
            header = owner.header(alg="HS256")
            title = f"HS256 keyed with the {name}, {owner.key.algorithm} kid"
            yield title, sign(header, owner.claims(), spelling)


def bad_claims(forge: Forge) -> Corpus:
    """Claims that are missing, of another type, or of somebody else; rightly signed."""
    now = int(time.time())
    changes: dict[str, dict[str, Any]] = {f"without {name}": {name: None} for name in CLAIMS}
    changes |= {f"{name} as list": {name: [forge.claims()[name]]} for name in CLAIMS}
    changes |= {f"{name} as object": {name: {"a": 1}} for name in CLAIMS}
    changes |= {f"{name} true": {name: True} for name in CLAIMS}
    changes |= {f"{name} empty": {name: ""} for name in CLAIMS}
    changes |= {f"{name} zero": {name: 0} for name in CLAIMS if name not in {"iat", "nbf"}}
    changes |= {
        "iss with suffix": {"iss": forge.issuer + "/"},
        "iss with prefix": {"iss": "x" + forge.issuer},
        "iss substring": {"iss": forge.issuer[:-1]},
        "iss in upper case": {"iss": forge.issuer.upper()},
        "aud with suffix": {"aud": AUDIENCE + "2"},
        "aud of another service": {"aud": "billing"},
        "aud among others": {"aud": [AUDIENCE, "billing"]},
        "sub of an agent": {"sub": "agt_01m800kkaaep4r1p5rqd7r13fr"},
        "sub without prefix": {"sub": "admin"},
        "sid of another kind": {"sid": "key_01m800kkaaep4r1p5rqd7r13fr"},
        "unknown role": {"role": "root"},
        "role in upper case": {"role": "ADMIN"},
        "expired": {"exp": now - 31},
        "expired just past the leeway": {"exp": now - 11},
        "expired in 1970": {"exp": 1},
        "negative exp": {"exp": -1},
        "exp as text": {"exp": str(now + 600)},
        "exp as float": {"exp": now + 600.5},
        "exp beyond floats": {"exp": 10**400},
        "iat in the future": {"iat": now + 60},
        "iat beyond floats": {"iat": 10**400},
        "nbf in the future": {"nbf": now + 60},
        "nbf as text": {"nbf": "soon"},
    }
    for name, change in changes.items():
        yield name, forge.sign(forge.header(), forge.claims(**change))
    good = json.dumps(forge.claims())
    texts: dict[str, str | bytes] = {
        "role twice": f'{{"role":"admin",{good[1:]}',
        "role twice, the other way": good[:-1] + ',"role":"admin"}',
        "exp Infinity": good[:-1] + ',"exp":Infinity}',
        "exp NaN alone": json.dumps(forge.claims(exp=float("nan"))),
        "exp 1e999": json.dumps(forge.claims(exp=0)).replace('"exp": 0', '"exp": 1e999'),
        "4,301 digits": json.dumps(forge.claims(exp=0)).replace(
            '"exp": 0', '"exp": ' + "9" * 4_301
        ),
        "2,000 deep claims": '{"a":' * 900 + "1" + "}" * 900,
        "claims as list": f"[{good}]",
        "claims as text": '"admin"',
        "claims null": "null",
        "claims not JSON": "admin",
        "claims not UTF-8": b"\xff\xfe",
        "claims with BOM": "\ufeff" + good,
        "empty claims": "{}",
    }
    for name, text in texts.items():
        yield name, forge.sign(forge.header(), text)
