"""Profile of one CSV file (RFC 4180, UTF-8): its rows, and per column what `csv_columns` defines.

Rules
- The first line that is not blank is the header. An unnamed column is `column_<position>`; of
  columns of the same name the second is `<name>_2`, the third `<name>_3`; a name
  is cut at 200 characters.
- The delimiter is the one of `,` `;` tab `|` that splits the first 100 records into the most
  columns, most evenly, quoted fields left out; `,` when none splits the header.
- *rows* counts the records after the header. Blank lines are no rows; a quoted field may hold line
  ends. A short row's missing cells are nulls, a long row's surplus cells are ignored, and
  *ragged_rows* counts both.
- *top_values* of strings and booleans: up to five, most frequent first, ties alphabetical.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from server.demo.csv_columns import LONGEST_VALUE, Column, key_of, shown
from server.demo.ranking import Ranking
from server.demo.reading import IsCancelled, Progress, UnreadableFile, read_text

DELIMITERS = ",;\t|"
LONGEST_FIELD = 16 << 20
LONGEST_LINE = 64 << 20
TOP_VALUES = 5
DISTINCT_VALUES_IN_MEMORY = 1_000_000

_SAMPLE_RECORDS = 100
_BATCH = 500
# A quoted field by itself, whichever the delimiter: what it holds must not count.
_QUOTED = re.compile(r'(?:\A|(?<=[,;\t|\r\n]))[ ]*+"(?:[^"]++|"")*+"(?=[ ]*+(?:[,;\t|\r\n]|\Z))')
_COUNTED_TYPES = frozenset({"string", "boolean"})


def profile_csv(
    path: str | Path,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> dict[str, Any]:
    """Profile a CSV file by the rules of this module.

    Memory is bounded by the widest row, not by the file, which is read twice: for the types, then
    for the values of strings. Raises `UnreadableFile` (also for a file without a header, or with a
    quote that is never closed) and `Cancelled`.
    """
    table = _Table(Path(path), cancelled)
    names = list(_unique_names(table.header))
    columns = [Column(decimal_comma=table.delimiter == ";") for _ in names]
    rows = ragged_rows = 0
    for record in table.records(progress, (0.0, 0.5)):
        rows += 1
        if len(record) != len(columns):
            ragged_rows += 1
            for column in columns[len(record) :]:
                column.nulls += 1
        for column, cell in zip(columns, record, strict=False):
            column.add(cell)
    values = _top_values(table, columns, progress)
    if progress is not None:
        progress(1.0)
    return {
        "kind": "csv",
        "delimiter": table.delimiter,
        "rows": rows,
        "ragged_rows": ragged_rows,
        "columns": {
            name: column.profile() | values.get(position, {})
            for position, (name, column) in enumerate(zip(names, columns, strict=True))
        },
    }


class _Table:
    """A CSV file that can be read again and again; opening it finds delimiter and header."""

    def __init__(self, path: Path, cancelled: IsCancelled | None) -> None:
        self._path = path
        self._cancelled = cancelled
        pieces = read_text(path, cancelled=cancelled)
        sample = next(pieces, "")
        more = next(pieces, None) is not None
        pieces.close()
        self.delimiter = detect_delimiter(sample, complete=not more)
        header = next(self._all_records(None, (0.0, 0.0)), None)
        if header is None:
            raise UnreadableFile.because(path, "is empty: a CSV file needs a header line")
        self.header = header

    def records(self, progress: Progress | None, span: tuple[float, float]) -> Iterator[list[str]]:
        """Yield the records after the header."""
        return islice(self._all_records(progress, span), 1, None)

    def _all_records(
        self, progress: Progress | None, span: tuple[float, float]
    ) -> Iterator[list[str]]:
        pieces = read_text(self._path, progress=progress, cancelled=self._cancelled, span=span)
        lines = _Lines(pieces, self._path)
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines, delimiter=self.delimiter)
        record_starts = 1
        try:
            for record in reader:
                # A record that is complete only because the text ended lies in an open quote.
                if lines.ended:
                    raise UnreadableFile.because(
                        self._path,
                        f"has a quoted field that is never closed, from line {record_starts}",
                    )
                record_starts = reader.line_num + 1
                if record and not _is_blank(record):
                    yield record
        except csv.Error as error:
            where = f"line {record_starts}"
            raise UnreadableFile.because(
                self._path, f"is not valid CSV near {where}: {error}"
            ) from None


class _Lines:
    """The lines of a text, ends kept (LF, CRLF or CR), with a mark that the text has ended."""

    def __init__(self, pieces: Iterator[str], path: Path) -> None:
        self.ended = False
        self._lines = self._split(pieces, path)

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        self.ended = True

    @staticmethod
    def _split(pieces: Iterator[str], path: Path) -> Iterator[str]:
        open_line: list[str] = []
        length = 0
        for piece in pieces:
            for line in io.StringIO(piece, newline=""):
                # A CR at the end of a piece may be the first half of a CRLF.
                if open_line and open_line[-1].endswith("\r") and line != "\n":
                    yield "".join(open_line)
                    open_line, length = [], 0
                open_line.append(line)
                length += len(line)
                if line.endswith("\n"):
                    yield "".join(open_line)
                    open_line, length = [], 0
                elif length > LONGEST_LINE:
                    raise UnreadableFile.because(
                        path, f"has a line of more than {LONGEST_LINE:,} characters"
                    )
        if open_line:
            yield "".join(open_line)


def detect_delimiter(sample: str, *, complete: bool = True) -> str:
    """Find the delimiter from the start of a file; `complete` when it is the whole of it."""
    lines = [line for line in re.split(r"[\r\n]+", _QUOTED.sub("x", sample)) if line.strip()]
    if not complete and len(lines) > 1:
        lines.pop()
    best, best_score = DELIMITERS[0], 0.0
    for delimiter in DELIMITERS:
        counts = [line.count(delimiter) for line in lines[:_SAMPLE_RECORDS]]
        if counts:
            score = counts[0] * counts.count(counts[0]) / len(counts)
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _is_blank(record: list[str]) -> bool:
    return len(record) == 1 and record[0] != "" and record[0].isspace()


def _unique_names(header: list[str]) -> Iterator[str]:
    stripped = [name.strip()[:LONGEST_VALUE] for name in header]
    given = set(stripped)
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for position, own in enumerate(stripped, start=1):
        name = base = own or f"column_{position}"
        while name in taken or (name != own and name in given):
            numbers[base] = numbers.get(base, 1) + 1
            name = f"{base}_{numbers[base]}"
        taken.add(name)
        yield name


def _top_values(
    table: _Table, columns: list[Column], progress: Progress | None
) -> dict[int, dict[str, Any]]:
    counted = {i: c for i, c in enumerate(columns) if c.type in _COUNTED_TYPES}
    capacity = max(1_000, DISTINCT_VALUES_IN_MEMORY // max(1, len(counted)))
    rankings = {i: Ranking(size=TOP_VALUES, capacity=capacity) for i in counted}
    finished = not rankings
    span = (0.5, 1.0)
    while not finished:
        records = table.records(progress, span)
        for first in records:
            batch = [first, *islice(records, _BATCH - 1)]
            for i, ranking in rankings.items():
                ranking.add(_keys(batch, i, lower=columns[i].type == "boolean"))
        passes = [ranking.finish_pass() for ranking in rankings.values()]
        finished = all(passes)
        span = (1.0, 1.0)
    return {
        i: {"top_values": [{"value": shown(key), "count": n} for key, n in ranking.top()]}
        for i, ranking in rankings.items()
    }


def _keys(batch: list[list[str]], position: int, *, lower: bool) -> Iterator[str]:
    for record in batch:
        if position < len(record) and (key := key_of(record[position])) is not None:
            yield key.lower() if lower else key
