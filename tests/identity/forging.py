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
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from server.keys import SigningKey

ISSUER = "http://127.0.0.1:8000"
AUDIENCE = "agentzero-api"
USER_ID = "usr_01m800kkaaep4r1p5rqd7r13fr"
SESSION_ID = "ses_01m800kkbrez1vcmc27j99r4p4"
CLAIMS = ("iss", "aud", "sub", "role", "sid", "jti", "iat", "nbf", "exp")


def encode(value: object) -> str:
    """One segment: JSON (or the text or bytes given) in base64url without padding."""
    if isinstance(value, str):
        value = value.encode()
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(header: object, payload: object, key: bytes, digest: str = "sha256") -> str:
    """A token with an HMAC, whatever the header says."""
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(hmac.digest(key, signed.encode(), digest))}"


def good_claims(**changes: Any) -> dict[str, Any]:
    """Claims that hold, with changes; a change to None takes a claim away."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": USER_ID,
        "role": "user",
        "sid": SESSION_ID,
        "jti": "f" * 32,
        "iat": now,
        "nbf": now,
        "exp": now + 600,
    } | changes
    return {name: value for name, value in claims.items() if value is not None}


def good_header(key: SigningKey, **changes: Any) -> dict[str, Any]:
    """Our own header, with changes; a change to None takes a field away."""
    header = {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"} | changes
    return {name: value for name, value in header.items() if value is not None}


def bad_headers(key: SigningKey) -> Iterator[tuple[str, str]]:
    """Headers that are not ours, under a signature that is."""
    nested: Any = {}
    for _ in range(60):
        nested = {"a": nested}
    jwk = {"kty": "oct", "k": encode(key.private)}
    changes: dict[str, dict[str, Any]] = {
        "no alg": {"alg": None},
        "alg of another hash": {"alg": "HS512"},
        "alg in lower case": {"alg": "hs256"},
        "alg as list": {"alg": ["HS256"]},
        "alg as number": {"alg": 256},
        "alg RS256 for an HS256 kid": {"alg": "RS256"},
        "alg ES256": {"alg": "ES256"},
        "no kid": {"kid": None},
        "empty kid": {"kid": ""},
        "unknown kid": {"kid": "nobody"},
        "kid traversal": {"kid": "../../../../dev/null"},
        "kid dots": {"kid": "../"},
        "kid as SQL": {"kid": "x' UNION SELECT 'key'--"},
        "kid as command": {"kid": "|/bin/true"},
        "kid with NUL": {"kid": f"{key.kid}\0"},
        "kid of 10 kB": {"kid": "k" * 10_000},
        "kid as list": {"kid": [key.kid]},
        "kid as object": {"kid": {"a": 1}},
        "kid as number": {"kid": 0},
        "kid in upper case": {"kid": key.kid.upper() + "X"},
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
        "jku": {"jku": "http://127.0.0.1:1/keys"},
        "jwk": {"jwk": jwk},
        "x5u": {"x5u": "http://127.0.0.1:1/chain"},
        "x5c": {"x5c": ["MIIB"]},
        "x5t": {"x5t": "AAAA"},
        "cty JWT": {"cty": "JWT"},
        "zip": {"zip": "DEF"},
        "enc": {"enc": "A256GCM"},
        "nested": {"kid": nested},
    }
    for name, change in changes.items():
        yield name, sign(good_header(key, **change), good_claims(), key.private)
    good = json.dumps(good_header(key))
    texts: dict[str, str | bytes] = {
        "2,000 deep header": '{"a":' * 2_000 + "1" + "}" * 2_000,
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
        yield name, sign(text, good_claims(), key.private)


def unsigned(key: SigningKey) -> Iterator[tuple[str, str]]:
    """Tokens that ask not to be verified."""
    for alg in ("none", "None", "NONE", "nOnE", "", "null"):
        head = encode(good_header(key, alg=alg))
        body = encode(good_claims())
        yield f"alg {alg!r} without a signature", f"{head}.{body}."
        yield f"alg {alg!r} with a signature", f"{head}.{body}.{encode('x' * 32)}"
    head, body = encode(good_header(key)), encode(good_claims())
    yield "empty signature", f"{head}.{body}."
    yield "no signature", f"{head}.{body}"
    yield "signature of zeros", f"{head}.{body}.{encode(bytes(32))}"
    yield "short signature", f"{head}.{body}.{encode(b'x')}"


def bent(key: SigningKey) -> Iterator[tuple[str, str]]:
    """A good token, spelt another way or changed in one place."""
    good = sign(good_header(key), good_claims(), key.private)
    head, body, signature = good.split(".")
    other = encode(good_claims(role="admin"))
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
    yield "over 8 KiB", sign(good_header(key), good_claims(jti="j" * 9_000), key.private)
    yield "SHA-512 under HS256", sign(good_header(key), good_claims(), key.private, "sha512")
    yield "another key", sign(good_header(key), good_claims(), bytes(32))
    yield "empty key", sign(good_header(key), good_claims(), b"")
    yield "kid as key", sign(good_header(key), good_claims(), key.kid.encode())
    last = signature[-1]
    # The last digit of 32 bytes carries two bits that no byte holds: another spelling of it.
    twin = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    yield "unused bits set", f"{head}.{body}.{signature[:-1]}{twin[twin.index(last) ^ 1]}"
    for text in ("", ".", "..", "...", "Bearer", "null", "undefined", "[object Object]", "a.b.c"):
        yield f"the text {text!r}", text
    yield "a refresh token", "azr_" + "0" * 49
    yield "an unfinished API key", "azk_"


def confused(rsa: SigningKey, hmac_key: SigningKey) -> Iterator[tuple[str, str]]:
    """HS256 tokens keyed with what everybody may know: the public key of an RS256 entry."""
    public: RSAPublicKey = rsa.public
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
        "modulus": public.public_numbers().n.to_bytes(256),
    }
    for name, spelling in spellings.items():
        for kid, owner in (("RS256", rsa), ("HS256", hmac_key)):
            header = good_header(owner, alg="HS256")
            yield f"HS256 keyed with the {name}, {kid} kid", sign(header, good_claims(), spelling)


def bad_claims(key: SigningKey) -> Iterator[tuple[str, str]]:
    """Claims that are missing, of another type, or of somebody else; rightly signed."""
    now = int(time.time())
    changes: dict[str, dict[str, Any]] = {f"without {name}": {name: None} for name in CLAIMS}
    changes |= {f"{name} as list": {name: [good_claims()[name]]} for name in CLAIMS}
    changes |= {f"{name} as object": {name: {"a": 1}} for name in CLAIMS}
    changes |= {f"{name} true": {name: True} for name in CLAIMS}
    changes |= {f"{name} empty": {name: ""} for name in CLAIMS}
    changes |= {f"{name} zero": {name: 0} for name in CLAIMS if name not in {"iat", "nbf"}}
    changes |= {
        "iss with suffix": {"iss": ISSUER + "/"},
        "iss with prefix": {"iss": "x" + ISSUER},
        "iss substring": {"iss": ISSUER[:-1]},
        "iss in upper case": {"iss": ISSUER.upper()},
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
        yield name, sign(good_header(key), good_claims(**change), key.private)
    good = json.dumps(good_claims())
    texts: dict[str, str | bytes] = {
        "role twice": f'{{"role":"admin",{good[1:]}',
        "role twice, the other way": good[:-1] + ',"role":"admin"}',
        "exp Infinity": good[:-1] + ',"exp":Infinity}',
        "exp NaN alone": json.dumps(good_claims(exp=float("nan"))),
        "exp 1e999": json.dumps(good_claims(exp=0)).replace('"exp": 0', '"exp": 1e999'),
        "4,301 digits": json.dumps(good_claims(exp=0)).replace('"exp": 0', '"exp": ' + "9" * 4_301),
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
        yield name, sign(good_header(key), text, key.private)
