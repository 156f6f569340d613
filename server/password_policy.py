"""What a new password may be: 8 to 256 characters, of any kind, that are not among the first tried.

There are no rules of composition (NIST SP 800-63B, section 3.1.1.2). The common passwords are those
of the package `zxcvbn`, 30,000 from published leaks, compared without regard to case.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from hive.errors import Invalid

MIN_CHARACTERS = 8
MAX_CHARACTERS = 256
PRODUCT_NAMES = ("agentzeroapi", "agentzero")
# Fewer characters than these beside a name, or in a unit that is repeated, are soon tried out.
MIN_OF_ITS_OWN = 6
_MIN_NAME = 3
_SEPARATORS = re.compile(r"[\W_]+")


class WeakPassword(Invalid):
    """A new password that a guesser would try early, or of an impossible length (422)."""

    code = "weak-password"
    title = "Weak password"


def check_password(password: str, *, username: str, pointer: str = "/password") -> None:
    """Return when the user may have this password from now on. Raises WeakPassword.

    `pointer` (RFC 6901) is where the password stands in the request.
    """
    prepared = unicodedata.normalize("NFKC", password)
    if len(prepared) < MIN_CHARACTERS:
        raise WeakPassword(f"A password has at least {MIN_CHARACTERS} characters.", pointer=pointer)
    if len(prepared) > MAX_CHARACTERS:
        raise WeakPassword(f"A password has at most {MAX_CHARACTERS} characters.", pointer=pointer)
    folded = prepared.casefold()
    if folded in common_passwords():
        raise WeakPassword("This is one of the most common passwords.", pointer=pointer)
    unit = _repeated_unit(folded)
    if unit != folded and _is_little(unit):
        raise WeakPassword("The password repeats something short.", pointer=pointer)
    names = (unicodedata.normalize("NFKC", username).casefold(), *PRODUCT_NAMES)
    for name in (_SEPARATORS.sub("", name) for name in names):
        if folded == username.casefold() or _is_mostly(name, folded):
            raise WeakPassword(
                "The password is little more than the username or the product's name.",
                pointer=pointer,
            )


@cache
def common_passwords() -> frozenset[str]:
    """The common passwords in small letters; the first call reads them, for about 30 ms."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # noqa: PLC0415 - 12 MB, when needed

    return frozenset(each.casefold() for each in FREQUENCY_LISTS["passwords"])


def _repeated_unit(text: str) -> str:
    """The shortest text of which this one is a repetition: itself, unless there is a shorter."""
    return text[: (text + text).find(text, 1)]


def _is_mostly(name: str, folded: str) -> bool:
    letters = _SEPARATORS.sub("", folded)
    return len(name) >= _MIN_NAME and name in letters and _is_little(letters.replace(name, ""))


def _is_little(text: str) -> bool:
    return len(text) < MIN_OF_ITS_OWN or text in common_passwords()
