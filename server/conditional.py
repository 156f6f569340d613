"""Answers that a client may keep and ask for again (RFC 9110, sections 8.8 and 13).

Every GET that declares `If-None-Match` in the contract has a strong `ETag` and is kept for one
client that revalidates it each time. The tag comes before any content coding.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final

from tornado.httputil import HTTPHeaders

from handlers.context import Reply
from hive.preconditions import ANY, EntityTag, read_tags
from server.answers import Answer
from server.contract import Operation

HASH_BYTES: Final = 12
KEPT: Final = "private, no-cache"
NOT_MODIFIED: Final = 304
# What RFC 9110, section 15.4.5, has a 304 say again. `Date` is the server's own.
_SAID_AGAIN = ("ETag", "Cache-Control", "Content-Location", "Expires", "Vary", "Link", "Age")


def tag_answer(operation: Operation, reply: Reply, answer: Answer) -> Answer:
    """Put the validator on a representation that was made just now, and let clients keep it."""
    if not operation.is_conditional or answer.status != HTTPStatus.OK:
        return answer
    if answer.pieces is not None:
        # Its handler knows what is in them, and has tagged it.
        return replace(answer, headers={"Cache-Control": KEPT, **answer.headers})
    opaque = _hash(answer)
    if (version := _version_of(reply.body)) is not None:
        opaque = f"{version}.{opaque}"
    return replace(answer, headers={"Cache-Control": KEPT, **answer.headers, "ETag": f'"{opaque}"'})


def revalidate(operation: Operation, headers: HTTPHeaders, answer: Answer) -> Answer:
    """304 instead of what the client has already; the answer itself otherwise."""
    given = headers.get_list("If-None-Match")
    if not given or not operation.is_conditional or "ETag" not in answer.headers:
        return answer
    kept = _find_kept(", ".join(given), answer.headers["ETag"])
    if kept is None:
        return answer
    again = {name: answer.headers[name] for name in _SAID_AGAIN if name in answer.headers}
    return Answer(NOT_MODIFIED, again | {"ETag": f'"{kept.opaque}{kept.coding}"'}, b"", None)


def _hash(answer: Answer) -> str:
    """Of the bytes, and of `Link`: the same page may have got a next one."""
    digest = blake2b(answer.body, digest_size=HASH_BYTES)
    digest.update(answer.headers.get("Link", "").encode())
    return digest.hexdigest()


def _version_of(body: Any) -> int | None:
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, int) else None


def _find_kept(field: str, current: str) -> EntityTag | None:
    """The tag that the client has, compared weakly, in the coding that it has."""
    (tag,) = read_tags(current)
    if field.strip() == ANY:
        return tag
    return next((given for given in read_tags(field) if given.opaque == tag.opaque), None)
