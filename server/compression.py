"""Content codings of answers (RFC 9110, sections 8.4.1 and 12.5.3): zstd, br and gzip.

JSON and YAML of 1 KiB and more are sent in the coding that the client likes best; of several, in
the first of that list. Never compressed: answers that hold secrets (`x-secret`; the length would
tell of them, BREACH), problems, and what does not get smaller. `identity` is always to be had,
whatever `Accept-Encoding` says: nobody gets 406. A strong validator is one of the bytes that are
sent, so `"x"` becomes `"x-gzip"`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Final

import brotli
from tornado.httputil import HTTPHeaders

from server.answers import Answer, join_fields
from server.operations import SUCCESS, Operation

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIN_BYTES: Final = 1024
IN_LOOP_BYTES: Final = 64 * 1024
"""Up to here the fastest way takes less than a millisecond; more goes to a thread."""
THREADS: Final = 2
REMEMBERED: Final = 24
MAX_REMEMBERED_BYTES: Final = 256 * 1024
COMPRESSED: Final = frozenset({"application/json", "application/yaml", "application/x-ndjson"})

_GZIP_WINDOW = 31
_ALIASES: Mapping[str, str] = {"x-gzip": "gzip"}
_MEMBER = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?"
)


def _zstd(body: bytes) -> bytes:
    return zstd.compress(body, 3)


def _br(body: bytes) -> bytes:
    encoded: bytes = brotli.compress(body, quality=4)
    return encoded


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, 6, _GZIP_WINDOW)


CODINGS: Mapping[str, Callable[[bytes], bytes]] = {"zstd": _zstd, "br": _br, "gzip": _gzip}


def choose_coding(field: str) -> str | None:
    """The coding of `Accept-Encoding` to use; None is `identity`. What is none is passed over."""
    weights: dict[str, float] = {}
    for member in field.split(","):
        if found := _MEMBER.fullmatch(member):
            name = found[1].lower()
            weights.setdefault(_ALIASES.get(name, name), float(found[2] or 1))
    others = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


class Compression:
    """The port `server.pipeline.Compresses`.

    What is large is compressed in one of two threads, and remembered when it has a validator.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="compression")
        self._remembered: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._threads.shutdown(cancel_futures=True)

    async def compress(self, operation: Operation, headers: HTTPHeaders, answer: Answer) -> Answer:
        """Give the answer in the coding that the request asks for; `Vary` says that it decided."""
        if not _is_negotiated(operation, answer):
            return answer
        varied = replace(answer, headers=join_fields(answer.headers, {"Vary": "Accept-Encoding"}))
        coding = choose_coding(",".join(headers.get_list("Accept-Encoding")))
        if coding is None or answer.status == HTTPStatus.NOT_MODIFIED:
            return varied
        body = await self._encode(coding, answer)
        if len(body) >= len(answer.body):
            return varied
        coded = {**varied.headers, "Content-Encoding": coding}
        if "ETag" in coded:
            coded["ETag"] = f'{coded["ETag"][:-1]}-{coding}"'
        return replace(answer, headers=coded, body=body)

    async def _encode(self, coding: str, answer: Answer) -> bytes:
        encode = CODINGS[coding]
        if len(answer.body) <= IN_LOOP_BYTES:
            return encode(answer.body)
        # The validator stands for these very bytes.
        key = (coding, answer.headers.get("ETag", ""))
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._threads, encode, answer.body)
        if key[1] and len(body) <= MAX_REMEMBERED_BYTES:
            self._remembered[key] = body
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return body


def _is_negotiated(operation: Operation, answer: Answer) -> bool:
    if operation.holds_secrets or "Content-Encoding" in answer.headers:
        return False
    if answer.status == HTTPStatus.NOT_MODIFIED:
        return True
    return (
        answer.status in SUCCESS
        and len(answer.body) >= MIN_BYTES
        and (answer.content_type or "").partition(";")[0] in COMPRESSED
    )
