"""Notices sprays: one password tried on many accounts, or one network trying many accounts.

Kept in memory of this node only, for 15 minutes, and bounded. Passwords are known by a keyed hash
whose key is made at the start and leaves the process never; accounts by the keyed hash of the name.
"""

from __future__ import annotations

import hmac
import secrets
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import structlog

WINDOW_SECONDS = 15 * 60.0
ACCOUNTS_OF_A_PASSWORD = 10
ACCOUNTS_OF_A_NETWORK = 20
WARNING_SECONDS = 60.0
REMEMBERED = 4_096
COUNTED = 32

log = structlog.stdlib.get_logger("server.login_sprays")


@dataclass(slots=True)
class _Tried:
    """The accounts on which one thing was tried, the latest at the end, and when it was said."""

    accounts: OrderedDict[str, float] = field(default_factory=OrderedDict)
    warned_at: float | None = None


class LoginSprays:
    """Warns with `login.spray_suspected`, at most once a minute for each password or network."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._tried: OrderedDict[Hashable, _Tried] = OrderedDict()

    def note(self, account: str, network: str, password: str) -> None:
        """Note a login that failed or was not verified."""
        now = self._clock()
        text = unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
        fingerprint = hmac.digest(self._key, text, "sha256")[:16]
        count = self._count(fingerprint, account, now)
        if count >= ACCOUNTS_OF_A_PASSWORD and self._may_warn(fingerprint, now):
            log.warning("login.spray_suspected", one="password", accounts=count)
        count = self._count(network, account, now)
        if count >= ACCOUNTS_OF_A_NETWORK and self._may_warn(network, now):
            log.warning("login.spray_suspected", one="network", network=network, accounts=count)

    def _count(self, what: Hashable, account: str, now: float) -> int:
        """On how many accounts it was tried within the window; `COUNTED` is that or more."""
        tried = self._tried.setdefault(what, _Tried())
        self._tried.move_to_end(what)
        if len(self._tried) > REMEMBERED:
            self._tried.popitem(last=False)
        tried.accounts[account] = now
        tried.accounts.move_to_end(account)
        while len(tried.accounts) > COUNTED or self._is_old(tried, now):
            tried.accounts.popitem(last=False)
        return len(tried.accounts)

    def _is_old(self, tried: _Tried, now: float) -> bool:
        return next(iter(tried.accounts.values())) <= now - WINDOW_SECONDS

    def _may_warn(self, what: Hashable, now: float) -> bool:
        tried = self._tried[what]
        if tried.warned_at is not None and now - tried.warned_at < WARNING_SECONDS:
            return False
        tried.warned_at = now
        return True
