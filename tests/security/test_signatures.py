"""Bar A10: no bent, stale or repeated signature is accepted, whatever is bent; an honest one is."""

from __future__ import annotations

import asyncio
import base64
import random
import secrets
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hive.permissions import Role
from tests.api.running import Api, RunningNode
from tests.security.signing import (
    PLAN,
    Draft,
    Key,
    Plan,
    digest_of,
    due,
    now,
    register,
    request,
    sign,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEW_MUTATIONS = 300
MUTATIONS = 1_000
SOAKED_MUTATIONS = 10_000
AT_ONCE = 20
BUSY = 3
SLACK_SECONDS = 60
REFUSED = {"signature-required", "signature-invalid", "signature-replayed"}


@dataclass(frozen=True)
class World:
    """An admin with signing keys, whom the tests let change the role of a user."""

    node: RunningNode
    admin: Api
    keys: Mapping[str, Key]
    target: str
    other_target: str
    foreign: Key
    wire: httpx.AsyncClient

    def draft(self, body: bytes = b'{"role":"viewer"}') -> Draft:
        """A request that may be signed and is accepted then."""
        authority = urlsplit(self.node.url).netloc
        return Draft("PATCH", f"/api/v1/users/{self.target}", authority, body=body)

    async def send(self, draft: Draft) -> httpx.Response:
        """Send it with the admin's credential, without asking the contract's judge."""
        assert self.admin.credential is not None
        return await draft.send(self.wire, self.admin.credential)

    async def version(self) -> int:
        """How often the user was changed."""
        user = await self.admin.ok("GET", f"/api/v1/users/{self.target}")
        return int(user["version"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(node: RunningNode) -> AsyncIterator[World]:
    """An admin of its own, with a key of each algorithm and of the same algorithms once more."""
    name = uuid.uuid4().hex[:8]
    await node.add_user(f"signer-{name}", Role.ADMIN)
    target = await node.add_user(f"target-{name}", Role.USER)
    other = await node.add_user(f"other-{name}", Role.USER)
    admin = await node.log_in(f"signer-{name}")
    stranger = await node.log_in(f"other-{name}")
    first = await register(admin, "ed25519")
    keys = {
        "ed25519": first,
        "hmac-sha256": await register(admin, "hmac-sha256", signed_by=first),
        "second": await register(admin, "ed25519", signed_by=first),
    }
    foreign = await register(stranger, "ed25519")
    async with httpx.AsyncClient(base_url=node.url, timeout=40) as wire:
        yield World(node, admin, keys, target, other, foreign, wire)


def flipped(text: str, dice: random.Random) -> str:
    """The text with one character changed to another one of its kind."""
    places = [i for i, c in enumerate(text) if c.isalnum()]
    place = dice.choice(places)
    kind = "0123456789" if text[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return text[:place] + dice.choice(kind.replace(text[place].lower(), "")) + text[place + 1 :]


Bend = Callable[[World, Key, random.Random], Draft]


def target_of(world: World, key: Key, dice: random.Random) -> Draft:
    """Method, authority, path or query are others than those that were signed."""
    draft = sign(world.draft(), key)
    # Without a query, `@query` is signed as `?`.
    asked = sign(world.draft(), key, replace(PLAN, components=[*due(world.draft()), "@query"]))
    port = draft.authority.partition(":")[2]
    return dice.choice(
        [
            replace(draft, method="DELETE"),
            replace(draft, method="DELETE", body=b""),
            replace(draft, authority=f"localhost:{port}"),
            replace(draft, authority=f"127.0.0.1:{dice.randint(1, 9)}"),
            replace(draft, authority=f"{dice.choice('abc')}.example"),
            replace(draft, target=draft.target.replace(world.target, world.other_target)),
            replace(draft, target=f"/api/v1/users/{flipped(world.target, dice)}"),
            replace(draft, target=draft.target.replace("usr_", "usr%5F")),
            replace(draft, method="POST", target=f"{draft.target}/password"),
            replace(draft, target=f"{draft.target}?{dice.choice('abc')}={dice.random()}"),
            replace(draft, target=f"{draft.target}?"),
            replace(asked, target=f"{asked.target}?"),
        ]
    )


def query_of(world: World, key: Key, dice: random.Random) -> Draft:
    """The query was signed, and is another one."""
    asked = f"{world.draft().target}?a=1&b=2"
    draft = sign(replace(world.draft(), target=asked), key)
    base = draft.target.partition("?")[0]
    queries = ["?a=1&b=3", "?b=2&a=1", "?a=1&b=2&c=3", "?a=1", "?", "", "?a=1&b=%32", "?A=1&b=2"]
    return replace(draft, target=base + dice.choice(queries))


def body_of(world: World, key: Key, dice: random.Random) -> Draft:
    """A byte of the body, or its digest, is another one."""
    draft = sign(world.draft(), key, replace(PLAN, digest=dice.choice(["sha-256", "sha-512"])))
    place = dice.randrange(len(draft.body))
    byte = draft.body[place] ^ (1 << dice.randrange(8))
    other = b'{"role":"admin"}'
    digest = draft.headers["Content-Digest"]
    return dice.choice(
        [
            replace(draft, body=draft.body[:place] + bytes([byte]) + draft.body[place + 1 :]),
            replace(draft, body=draft.body + b" "),
            replace(draft, body=draft.body[:-1]),
            replace(draft, body=b""),
            replace(draft, body=other),
            replace(draft, body=other).having(content_digest=digest_of(other)),
            draft.having(content_digest=flipped(digest, dice)),
            draft.having(content_digest=digest_of(draft.body, "md5")),
            draft.having(content_digest=f"{digest}, {digest}"),
            draft.having(content_digest=f"{digest}, md5=:AAAA:"),
            draft.having(content_digest=""),
        ]
    )


def said_of(world: World, key: Key, dice: random.Random) -> Draft:
    """A parameter of the signature is another one than what was signed."""
    said = {"expires": now() + 100, "alg": key.algorithm, "tag": "agentzero"}
    draft = sign(world.draft(), key, PLAN.saying(**said))
    told = draft.headers["Signature-Input"]
    name = dice.choice(["created", "expires", "nonce", "keyid", "alg", "tag"])
    start = told.index(f";{name}=")
    end = told.find(";", start + 1) if ";" in told[start + 1 :] else len(told)
    part = told[start:end]
    others = {"ed25519": "hmac-sha256", "hmac-sha256": "ed25519"}
    algorithm = dice.choice([others[key.algorithm], "rsa-pss-sha512", "none", "ED25519"])
    fresh = {
        "created": f";created={now() - dice.randint(1, 200)}",
        "expires": f";expires={now() + dice.randint(101, 200)}",
        "nonce": f';nonce="{secrets.token_urlsafe(18)}"',
        "keyid": f';keyid="{dice.choice([*world.keys.values(), world.foreign]).keyid}"',
        "alg": f';alg="{algorithm}"',
        "tag": ';tag="other"',
    }[name]
    if fresh == part:
        fresh = f"{part}1" if name == "created" else ""
    bent = dice.choice([fresh, "", part + part, f"{part};{name}", f"; {part[1:]}"])
    return draft.having(signature_input=told[:start] + bent + told[end:])


def cover_of(world: World, key: Key, dice: random.Random) -> Draft:
    """The list of components is another one than what was signed."""
    draft = sign(world.draft(), key)
    told = draft.headers["Signature-Input"]
    end = told.index(")")
    names = told[told.index("(") + 1 : end].split(" ")
    bent = names[:]
    kind = dice.randrange(5)
    if kind == 0:
        while bent == names:
            dice.shuffle(bent)
    elif kind == 1:
        bent.insert(dice.randrange(len(names)), dice.choice(names))
    elif kind == 2:
        bent.remove(dice.choice(names))
    elif kind == 3:
        bent.append(dice.choice(['"@query"', '"date"', '"host"', '"@scheme"', '"authorization"']))
    else:
        place = dice.randrange(len(names))
        bent[place] += dice.choice([";sf", ";req", ";bs", ';key="a"', ";tr"])
    return draft.having(signature_input=f"sig=({' '.join(bent)}{told[end:]}")


def value_of(world: World, key: Key, dice: random.Random) -> Draft:
    """The signature itself is another one, or there is another beside it."""
    draft = sign(world.draft(), key)
    told, value = draft.headers["Signature-Input"], draft.headers["Signature"]
    raw = bytearray(base64.b64decode(value[len("sig=:") : -1]))
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    bent = base64.b64encode(raw).decode()
    theirs = sign(world.draft(), world.foreign).headers
    return dice.choice(
        [
            draft.having(signature=f"sig=:{bent}:"),
            draft.having(signature=f"sig=:{base64.b64encode(raw[:-1]).decode()}:"),
            draft.having(signature=f"sig=:{base64.b64encode(bytes(64)).decode()}:"),
            draft.having(signature="sig=::"),
            draft.having(signature=value.replace("sig=", "sig2=")),
            draft.having(signature=f"{value}, {value}"),
            draft.having(signature=f"{value}, b=:{bent}:"),
            draft.having(
                signature_input=f"{told}, b={told[4:]}", signature=f"{value}, b{value[3:]}"
            ),
            draft.having(signature_input=f"{told}, {told}"),
            draft.having(signature=value.rstrip(":=") + ":")
            if "=:" in value[5:]
            else draft.having(signature=f"sig=:{bent}:"),
            draft.having(**{name.lower().replace("-", "_"): text for name, text in theirs.items()}),
            draft.having(signature=f"{value};a=1"),
            draft.having(signature=""),
            draft.having(signature_input=""),
            replace(draft, headers={k: v for k, v in draft.headers.items() if k != "Signature"}),
            replace(
                draft, headers={k: v for k, v in draft.headers.items() if k != "Signature-Input"}
            ),
        ]
    )


def plan_of(world: World, key: Key, dice: random.Random) -> Draft:
    """Truly signed, but not what is demanded."""
    draft = world.draft()
    names = due(draft)
    without = [name for name in names if name != dice.choice(names)] or names[:1]
    far = dice.choice([301, 302, 400, 3_600, 10**6, 10**14])
    plans: list[Plan] = [
        replace(PLAN, components=without if len(without) < len(names) else names[1:]),
        replace(PLAN, components=[]),
        replace(PLAN, components=[*names, names[0]]),
        replace(PLAN, components=[*names, dice.choice(["@target-uri", "@scheme", "host", "date"])]),
        replace(PLAN, components=[*names[:-1], '"content-digest";sf']),
        replace(PLAN, components=['"@method";req', *names[1:]]),
        replace(PLAN, components=[*names, '"@query-param";name="a"']),
        PLAN.omitting(dice.choice(["created", "nonce", "keyid"])),
        # Later than 301 s: the clock goes on until a busy server looks at it.
        PLAN.saying(created=now() + far + SLACK_SECONDS),
        PLAN.saying(created=now() - 1 - far),
        PLAN.saying(created=-far),
        PLAN.saying(expires=now() - dice.randint(2, 299)),
        PLAN.saying(created=now() - 200, expires=now() - 1 - dice.randint(1, 100)),
        PLAN.saying(created=now() - 1, expires=now() + 300 + far),
        PLAN.saying(nonce=dice.choice(["", "short", "x" * 15, "x" * 129, "x" * 900])),
        PLAN.saying(alg=dice.choice(["rsa-pss-sha512", "none", "", "ecdsa-p256-sha256"])),
        PLAN.saying(tag="another"),
        PLAN.saying(extra=1),
        PLAN.saying(keyid=dice.choice(["", "sgk_nobody", "x" * 65, world.foreign.keyid])),
    ]
    return sign(draft, key, dice.choice(plans))


def key_of(world: World, key: Key, dice: random.Random) -> Draft:
    """Signed with another key than the keyid says, or with one of somebody else."""
    forged = dice.choice(
        [
            replace(world.foreign, keyid=key.keyid),
            world.foreign,
            replace(key, private=Ed25519PrivateKey.generate()),
            replace(key, private=secrets.token_bytes(32)),
            # What is public must not work as a secret (the confusion of algorithms).
            replace(key, private=_public_bytes(world.keys["ed25519"]), algorithm="hmac-sha256"),
        ]
    )
    return sign(world.draft(), forged, dice.choice([PLAN, PLAN.saying(alg=forged.algorithm)]))


def _public_bytes(key: Key) -> bytes:
    assert isinstance(key.private, Ed25519PrivateKey)
    return key.private.public_key().public_bytes_raw()


BENDS: tuple[Bend, ...] = (
    target_of, query_of, body_of, said_of, cover_of, value_of, plan_of, key_of,
)  # fmt: skip


@pytest.mark.parametrize(
    "count",
    [
        FEW_MUTATIONS,
        pytest.param(MUTATIONS, marks=pytest.mark.more),
        pytest.param(SOAKED_MUTATIONS, marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(600)
async def test_no_bent_signature_is_accepted(world: World, count: int) -> None:
    """Each is refused with 401 and a code of signatures; the user is not changed once."""
    dice = random.Random(20_261_121)
    before = await world.version()
    made = [(bend, list(world.keys.values())[i % 2]) for i, bend in _cycle(count)]
    seen: Counter[str] = Counter()

    async def attempt(bend: Bend, key: Key) -> None:
        draft = bend(world, key, dice)
        answer = await world.send(draft)
        for _ in range(BUSY):
            # A machine that is too busy to say refuses, too; what it would have said is wanted.
            if answer.status_code == 503:
                answer = await world.send(draft)
        code = answer.json().get("code")
        assert (answer.status_code, code in REFUSED) == (401, True), (
            f"{bend.__name__}: {answer.status_code} {answer.text}\n{draft}"
        )
        seen[bend.__name__] += 1

    for start in range(0, count, AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for bend, key in made[start : start + AT_ONCE]:
                group.create_task(attempt(bend, key))
    assert await world.version() == before
    assert sum(seen.values()) == count
    assert len(seen) == len(BENDS)


def _cycle(count: int) -> list[tuple[int, Bend]]:
    return [(i // len(BENDS), BENDS[i % len(BENDS)]) for i in range(count)]


@pytest.mark.parametrize("algorithm", ["ed25519", "hmac-sha256"])
@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, digest="sha-512"),
        PLAN.saying(tag="agentzero"),
        PLAN.saying(nonce="x y:z!" + "n" * 100),
        replace(PLAN, components=["content-digest", "@path", "@authority", "@method"]),
        replace(PLAN, components=["@method", "@authority", "@path", "@query", "content-digest"]),
    ],
    ids=["plain", "sha-512", "tag", "long nonce", "another order", "an empty query"],
)
async def test_an_honest_signature_is_accepted(world: World, algorithm: str, plan: Plan) -> None:
    """What the guide allows: either algorithm and digest, any order, what is optional."""
    key = world.keys[algorithm]
    plan = plan.saying(alg=algorithm, expires=now() + 200)
    if "nonce" in plan.parameters:
        plan = plan.saying(nonce=f"{plan.parameters['nonce']}{algorithm}"[:128])
    answer = await world.send(sign(world.draft(), key, plan))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("ago", [-298, 0, 298])
async def test_created_may_be_five_minutes_off(world: World, ago: int) -> None:
    """Clocks of clients differ; 301 s is among the mutations."""
    plan = PLAN.saying(created=now() - ago)
    answer = await world.send(sign(world.draft(), world.keys["ed25519"], plan))
    assert answer.status_code == 200, answer.text


async def test_a_replay_is_refused_and_so_are_all_but_one_of_many_at_once(world: World) -> None:
    """The nonce is taken by one insert: whoever comes second is too late."""
    draft = sign(world.draft(), world.keys["hmac-sha256"])
    answers = await asyncio.gather(*(world.send(draft) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 19]
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 401}
    assert codes == {"signature-replayed"}


async def test_a_nonce_is_taken_by_its_key_and_not_by_a_bad_signature(world: World) -> None:
    """Nobody can use up another key's nonces; the same nonce under another key is another one."""
    nonce = secrets.token_urlsafe(18)
    first, second = world.keys["ed25519"], world.keys["second"]
    draft = sign(world.draft(), first, PLAN.saying(nonce=nonce))
    bad = replace(draft, body=b'{"role":"admin"}')
    assert (await world.send(bad)).json()["code"] == "signature-invalid"
    assert (await world.send(draft)).status_code == 200
    again = sign(world.draft(), first, PLAN.saying(nonce=nonce))
    assert (await world.send(again)).json()["code"] == "signature-replayed"
    other = sign(world.draft(), second, PLAN.saying(nonce=nonce))
    assert (await world.send(other)).status_code == 200


async def test_a_revoked_key_signs_nothing_any_more(world: World) -> None:
    """At once, although the node has just used it."""
    by = world.keys["ed25519"]
    key = await register(world.admin, "ed25519", signed_by=by)
    assert (await world.send(sign(world.draft(), key))).status_code == 200
    path = f"/api/v1/signing-keys/{key.keyid}"
    assert (await request(world.admin, "DELETE", path, key=by)).status_code == 200
    refused = await world.send(sign(world.draft(), key))
    assert refused.json()["code"] == "signature-invalid"


async def test_without_the_store_of_nonces_nothing_is_accepted(world: World) -> None:
    """A replay that can't be ruled out is not risked: 503, and nothing happened."""
    before = await world.version()
    path = world.node.directory.sqlite_path
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = await world.send(sign(world.draft(b'{"role":"user"}'), world.keys["ed25519"]))
        other.execute("ROLLBACK")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers
    assert await world.version() == before


async def test_operations_that_are_not_signed_ignore_signatures(world: World) -> None:
    """A client may sign everything it sends, and a broken signature there harms nobody."""
    draft = replace(world.draft(b""), method="GET").having(signature="?", signature_input="?")
    assert (await world.send(draft)).status_code == 200


JUNK = [
    "(" * 1_000, "sig=(" + '"a" ' * 240 + ")", "a" * 9_000, "é", "sig", "sig=1", "sig=()", "=",
    "sig=(1 2)", "sig=(a);created=1.5", "sig=@1", 'sig=%"x"', "sig=@99999999999999",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_is_refused_without_a_fault(world: World, junk: str) -> None:
    """Sizes are bounded, and nothing that a parser can meet is a 500."""
    good = sign(world.draft(), world.keys["ed25519"])
    for name in ("Signature-Input", "Signature", "Content-Digest"):
        headers = {**good.headers, name: junk}
        draft = replace(good, headers={n: v.encode() for n, v in headers.items()})  # type: ignore[misc]
        answer = await world.send(draft)
        assert (answer.status_code, answer.json()["code"]) == (401, "signature-invalid"), name
