"""What one column of a CSV file holds: the type of its cells and the figures that fit the type.

A cell is stripped of surrounding white space first. Null is an empty cell and the markers `NA`,
`N/A`, `n/a`, `null`, `Null`, `NULL`, `NaN`, `nan`. The other cells decide the type:

- *integer*: decimal digits with an optional sign, within 64 bits;
- *number*: integers, decimal fractions, exponents (with `;` as delimiter also a decimal comma);
- *boolean*: `true` and `false` in any case;
- *date* (`2026-11-21`) and *datetime* (`2026-11-21T09:30:00Z`, or with a space): ISO 8601 only;
- *string*: anything else, and any mixture but integer + number and date + datetime;
- *empty*: nothing but nulls.

A number with a leading zero (`00501`) is a string: it is a code, and its zeros matter.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Context, Decimal
from hashlib import blake2b
from typing import Any

NULLS = frozenset({"", "NA", "N/A", "n/a", "null", "Null", "NULL", "NaN", "nan"})
LONGEST_VALUE = 200

_LONGEST_FIGURE = 64
_INTEGERS = range(-(2**63), 2**63)
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?",
)
_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?P<time>[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
    r"(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_EXACT = Context(prec=400)
_TYPES = {
    frozenset[str](): "empty",
    frozenset({"integer"}): "integer",
    frozenset({"number"}): "number",
    frozenset({"integer", "number"}): "number",
    frozenset({"boolean"}): "boolean",
    frozenset({"date"}): "date",
    frozenset({"datetime"}): "datetime",
    frozenset({"date", "datetime"}): "datetime",
}

Value = int | Decimal | datetime


class Column:
    """Takes the cells of one column in one pass, in constant memory."""

    def __init__(self, *, decimal_comma: bool = False) -> None:
        self.nulls = 0
        self.type = "empty"
        self._decimal_comma = decimal_comma
        self._kinds: set[str] = set()
        self._count = 0
        self._sum = Decimal(0)
        self._min: tuple[Value, str] | None = None
        self._max: tuple[Value, str] | None = None

    def add(self, cell: str) -> None:
        """Take one more cell."""
        cell = cell.strip()
        if cell in NULLS:
            self.nulls += 1
        elif self.type != "string":
            kind, value = classify(cell, decimal_comma=self._decimal_comma)
            if kind not in self._kinds:
                self._kinds.add(kind)
                self.type = _TYPES.get(frozenset(self._kinds), "string")
            if value is not None and self.type != "string":
                self._measure(cell, value)

    def profile(self) -> dict[str, Any]:
        """Report `type`, `nulls`, and for figures and dates the smallest and the largest.

        The ends of dates are shown as the file has them; a time without offset counts as UTC.
        """
        found: dict[str, Any] = {"type": self.type, "nulls": self.nulls}
        if self._min is None or self._max is None or self.type == "string":
            return found
        if self.type == "integer":
            found |= {"min": int(self._min[1]), "max": int(self._max[1]), "mean": self._mean()}
        elif self.type == "number":
            low, high = _figure(self._min[0]), _figure(self._max[0])
            found |= {"min": low, "max": high, "mean": self._mean()}
        else:
            found |= {"min": self._min[1], "max": self._max[1]}
        return found

    def _measure(self, cell: str, value: Value) -> None:
        if self._min is None or value < self._min[0]:  # type: ignore[operator]  # one family only
            self._min = (value, cell)
        if self._max is None or value > self._max[0]:  # type: ignore[operator]  # one family only
            self._max = (value, cell)
        if not isinstance(value, datetime):
            self._count += 1
            self._sum = _EXACT.add(self._sum, Decimal(value))

    def _mean(self) -> float:
        return float(_EXACT.divide(self._sum, Decimal(self._count)))


def classify(cell: str, *, decimal_comma: bool = False) -> tuple[str, Value | None]:
    """Tell the type of one stripped, non-null cell, and its value if it can be ordered."""
    first = cell[0]
    if first in "tTfF":
        return ("boolean" if cell.lower() in {"true", "false"} else "string"), None
    if first not in "+-.,0123456789" or len(cell) > _LONGEST_FIGURE:
        return "string", None
    if _INTEGER.fullmatch(cell):
        value = int(cell)
        return ("integer", value) if value in _INTEGERS else ("number", Decimal(value))
    if match := _DATETIME.fullmatch(cell):
        return _date("datetime" if match["time"] else "date", cell)
    figure = cell.replace(",", ".") if decimal_comma and "." not in cell else cell
    if _NUMBER.fullmatch(figure):
        number = Decimal(figure)
        return ("number", number) if abs(float(number)) != float("inf") else ("string", None)
    return "string", None


def key_of(cell: str) -> str | None:
    """Return the string under which a cell is counted, None for a null.

    A value beyond 200 characters is counted by its start and a digest of the whole, so that long
    cells neither fill the memory nor merge with each other.
    """
    cell = cell.strip()
    if cell in NULLS:
        return None
    if len(cell) <= LONGEST_VALUE:
        return cell
    digest = blake2b(cell.encode(), digest_size=16).hexdigest()
    return f"{cell[:LONGEST_VALUE]}…\0{digest}"


def shown(key: str) -> str:
    """Return the value of a key as it is reported: at most 200 characters and an ellipsis."""
    return key.partition("\0")[0]


def _date(kind: str, cell: str) -> tuple[str, datetime | None]:
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return "string", None
    return kind, moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _figure(value: Value) -> float:
    return float(value)  # type: ignore[arg-type]  # figures only: dates are shown as text
