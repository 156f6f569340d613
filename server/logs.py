"""Logs: one line per event, as JSON or for a console; nobody's text can forge a line.

Control characters and line separators in any value are escaped, values under a secret's name are
replaced. `request_id` and whatever else is bound with `structlog.contextvars` is on every line of
the request. The standard library's logging (Tornado, SQLAlchemy) comes out the same way.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from hive.audit import mask_secrets

REDACTED = "[redacted]"
SECRET_NAMES = frozenset(
    {
        "access_token",
        "admin_password",
        "api_key",
        "authorization",
        "password",
        "refresh_token",
        "secret",
        "secret_key",
        "ticket",
        "token",
    }
)
# C0, DEL, C1, the Unicode line separators, the controls of text direction, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOISY = ("alembic", "asyncio", "pymongo", "urllib3", "httpx", "httpcore")


def configure_logging(
    log_format: Literal["json", "console"], log_level: str, stream: TextIO | None = None
) -> None:
    """Send every log of this process to `stream` (default: standard error)."""
    output = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        last.append(_render_json)
    else:
        last += [escape, structlog.dev.ConsoleRenderer(colors=output.isatty())]
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(log_level.upper())
    logging.captureWarnings(capture=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It would print whole URLs, and a token may stand in one; the pipeline logs its requests.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)


def request_log(request_id: str) -> AbstractContextManager[None]:
    """Every line that is logged inside carries the request's identifier."""
    return structlog.contextvars.bound_contextvars(request_id=request_id)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the values of secret names, at any depth of mappings, and credentials in texts."""
    return {name: _redacted(name, value) for name, value in event.items()}


def escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what could start a new line or steer a terminal; a traceback's lines are indented."""
    escaped: MutableMapping[str, Any] = {
        name: escape_text(value) if isinstance(value, str) else value
        for name, value in event.items()
        if name != "exception"
    }
    if "exception" in event:
        lines = [escape_text(line) for line in str(event["exception"]).split("\n")]
        escaped["exception"] = "\n".join(f"    {line}" for line in lines)
    return escaped


def escape_text(text: str) -> str:
    r"""`text` with every unsafe character as `\xNN` or `\uNNNN`."""
    return _UNSAFE.sub(_escape_character, text)


def _escape_character(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - one byte


def _redacted(name: object, value: Any) -> Any:
    if isinstance(name, str) and name.lower() in SECRET_NAMES:
        return REDACTED
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, item) for inner, item in value.items()}
    # A credential can stand in any text: in an address, in the words of a library's exception.
    return mask_secrets(value) if isinstance(value, str) else value


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # ensure_ascii escapes all but DEL.
    return json.dumps(event, default=repr, ensure_ascii=True).replace("\x7f", "\\u007f")
