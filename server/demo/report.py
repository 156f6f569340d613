"""Merges the profiles of files into one report, and writes it as JSON and as Markdown.

The report: `files` (name -> profile, or `{"error": sentence}`), `failures` (name -> sentence),
`totals`, and `generated_at` when the caller gives it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.demo.reading import printable

LONGEST_NAME = 80
LONGEST_VALUE = 40

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_PLAIN_FIGURES = (1e-2, 1e15)
_SUMMED = ("characters", "words", "sentences", "rows")


def merge(
    profiles: Mapping[str, Mapping[str, Any]],
    failures: Mapping[str, str],
    *,
    generated_at: str | None = None,
) -> dict[str, Any]:
    """Merge profiles and failures by file name; a name in both is a failure. Pure."""
    failed = {name: failures[name] for name in sorted(failures)}
    files: dict[str, dict[str, Any]] = {}
    for name in sorted({*profiles, *failures}):
        files[name] = {"error": failed[name]} if name in failed else _entry(profiles[name])
    stamp = {} if generated_at is None else {"generated_at": generated_at}
    return {**stamp, "files": files, "failures": failed, "totals": _totals(files)}


def render_markdown(report: Mapping[str, Any]) -> str:
    """Render a merged report as GitHub-flavoured Markdown; names and values can't break it."""
    files: Mapping[str, Mapping[str, Any]] = report["files"]
    texts = {name: entry for name, entry in files.items() if entry.get("kind") == "text"}
    tables = {name: entry for name, entry in files.items() if entry.get("kind") == "csv"}
    totals = report["totals"]
    summary = ", ".join(
        (
            f"{_plural(totals['files'], 'file')}: {_plural(totals['text_files'], 'text')}",
            _plural(totals["csv_files"], "CSV file"),
            f"{totals['failed']} failed.",
        )
    )
    parts = ["# Report", summary]
    if "generated_at" in report:
        parts.append(f"Generated at {_escape(report['generated_at'])}.")
    if report["failures"]:
        parts += ["## Failed", _table("File|Why", report["failures"].items())]
    if texts:
        parts += ["## Texts", _text_table(texts, totals), "### Most frequent words"]
        parts.append(_table("File|Words", ((n, _top(e, "word")) for n, e in texts.items())))
    if tables:
        parts += ["## CSV files", _csv_table(tables, totals)]
        for name, entry in tables.items():
            parts += [f"### {_escape(name)}", _column_table(entry["columns"])]
    return "\n\n".join(parts) + "\n"


def write_report(directory: str | Path, report: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `report.md` and `report.json`, each whole or not at all, and return their paths.

    The directory is made when it does not exist. Raises `OSError`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    as_json = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return (
        _write(directory / "report.md", render_markdown(report)),
        _write(directory / "report.json", as_json),
    )


def _entry(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {**profile, "kind": "csv" if "columns" in profile else "text"}


def _totals(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    entries = files.values()
    kinds = [entry.get("kind") for entry in entries]
    seconds = sum(entry.get("reading_time_seconds", 0) for entry in entries)
    return {
        "files": len(files),
        "text_files": kinds.count("text"),
        "csv_files": kinds.count("csv"),
        "failed": sum("error" in entry for entry in entries),
        **{key: sum(entry.get(key, 0) for entry in entries) for key in _SUMMED},
        "columns": sum(len(entry.get("columns", ())) for entry in entries),
        "reading_time_seconds": round(seconds, 1),
    }


def _text_table(texts: Mapping[str, Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    keys = ("characters", "words", "sentences", "reading_time_seconds")
    rows = [
        (name, *(_number(entry[key]) for key in keys[:3]), _duration(entry[keys[3]]))
        for name, entry in texts.items()
    ]
    rows.append(("Total", *(_number(totals[key]) for key in keys[:3]), _duration(totals[keys[3]])))
    return _table("File|Characters|Words|Sentences|Reading time", rows, align_right=True)


def _csv_table(tables: Mapping[str, Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    rows = [(n, _number(e["rows"]), _number(len(e["columns"]))) for n, e in tables.items()]
    rows.append(("Total", _number(totals["rows"]), _number(totals["columns"])))
    return _table("File|Rows|Columns", rows, align_right=True)


def _column_table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    rows = (
        (
            _clip(name),
            column["type"],
            _number(column["nulls"]),
            *(_figure(column.get(key, "")) for key in ("min", "max", "mean")),
            _top(column, "value"),
        )
        for name, column in columns.items()
    )
    return _table("Column|Type|Nulls|Min|Max|Mean|Most frequent values", rows)


def _table(header: str, rows: Iterable[Sequence[str]], *, align_right: bool = False) -> str:
    titles = header.split("|")
    rule = ["---", *(["---:" if align_right else "---"] * (len(titles) - 1))]
    lines = [titles, rule, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _top(entry: Mapping[str, Any], key: str) -> str:
    ranked = entry.get(f"top_{key}s", ())
    return ", ".join(
        f"{_clip(str(item[key]), LONGEST_VALUE)} ({_number(item['count'])})" for item in ranked
    )


def _escape(value: str) -> str:
    text = printable(" ".join(value.split()))
    return _MARKUP.sub(r"\\\1", text)


def _clip(text: str, length: int = LONGEST_NAME) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _number(value: int) -> str:
    return f"{value:,}"


def _figure(value: Any) -> str:
    """Show a value of the data itself: without thousands marks, since it may be a year."""
    if not isinstance(value, float):
        return str(value)
    low, high = _PLAIN_FIGURES
    plain = value == 0 or low <= abs(value) < high
    return f"{value:.3f}".rstrip("0").rstrip(".") if plain else f"{value:.6g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _write(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
