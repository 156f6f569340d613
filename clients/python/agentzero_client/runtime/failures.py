"""What ends a task without success, and what ends an agent."""

from __future__ import annotations

import re

from agentzero_client.errors import AgentZeroError

LONGEST_MESSAGE = 8192
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRETS = (
    re.compile(r"\baz[a-z]_[A-Za-z0-9_-]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(r"(?i)(?<=bearer )\S+"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)


class TaskError(Exception):
    """Raise it in a handler to fail the task with a code of your own.

    `code` is kebab-case or the like (1 to 64 letters, digits, `.`, `_`, `-`); `retryable` lets the
    hive try again while attempts are left.
    """

    def __init__(self, code: str, message: str = "", retryable: bool = False) -> None:  # noqa: FBT001, FBT002  # Reads well: TaskError("busy", "...", True).
        if not _CODE.fullmatch(code):
            raise ValueError(f"not an error code: {code!r}")
        self.code = code
        self.message = message
        self.retryable = retryable
        super().__init__(f"{code}: {message}")


class TaskCancelledError(Exception):
    """Raised by `ctx.raise_if_cancelled()`; let it pass and the task is given back as cancelled."""


class AgentIdentityError(AgentZeroError):
    """The agent can't prove who it is, or its name is taken; the message says what to do."""


class AgentStoppedError(AgentZeroError):
    """The hive turned the agent away: unregistered, key revoked, or replaced by another process."""


def describe(error: BaseException) -> str:
    """The type and text of an exception without keys, tokens and passwords in URLs."""
    text = str(error)
    return cut(redact(f"{type(error).__name__}: {text}" if text else type(error).__name__))


def redact(text: str) -> str:
    """Replace what looks like a credential."""
    for secret in _SECRETS:
        text = secret.sub("[redacted]", text)
    return text


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Make text that the contract takes: no NUL, no lone surrogates, at most so many characters."""
    text = text.replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"
