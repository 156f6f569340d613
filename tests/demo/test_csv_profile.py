"""What a CSV profile says, on small tables written out here."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.demo import csv_profile
from server.demo.csv_columns import classify
from server.demo.csv_profile import detect_delimiter, profile_csv
from server.demo.reading import BLOCK_BYTES, Cancelled, UnreadableFile

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture
def profile(tmp_path: Path) -> Any:
    """Profile a table given as a string or as bytes."""

    def of(text: str | bytes) -> dict[str, Any]:
        path = tmp_path / "some.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return profile_csv(path)

    return of


def test_small_table_has_exact_figures(profile: Any) -> None:
    """Every type reports its own figures, and nulls are counted apart."""
    found = profile(
        "id,price,ok,day,at,name,nothing\n"
        '1,0.1,true,2026-01-31,2026-01-31T10:00:00Z,"Low, Ann",\n'
        "2,0.2,FALSE,2025-12-01,2026-01-31T11:00:00+02:00,Bob,NA\n"
        '10,0.3,,,2026-02-01,"Low, Ann",null\n'
    )
    assert found == {
        "kind": "csv",
        "delimiter": ",",
        "rows": 3,
        "ragged_rows": 0,
        "columns": {
            "id": {"type": "integer", "nulls": 0, "min": 1, "max": 10, "mean": 13 / 3},
            "price": {"type": "number", "nulls": 0, "min": 0.1, "max": 0.3, "mean": 0.2},
            "ok": {
                "type": "boolean",
                "nulls": 1,
                "top_values": [{"value": "false", "count": 1}, {"value": "true", "count": 1}],
            },
            "day": {"type": "date", "nulls": 1, "min": "2025-12-01", "max": "2026-01-31"},
            "at": {
                "type": "datetime",
                "nulls": 0,
                "min": "2026-01-31T11:00:00+02:00",
                "max": "2026-02-01",
            },
            "name": {
                "type": "string",
                "nulls": 0,
                "top_values": [{"value": "Low, Ann", "count": 2}, {"value": "Bob", "count": 1}],
            },
            "nothing": {"type": "empty", "nulls": 3},
        },
    }


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("0", "integer"),
        ("-12", "integer"),
        ("+7", "integer"),
        ("9223372036854775807", "integer"),
        ("9223372036854775808", "number"),
        ("1.", "number"),
        (".5", "number"),
        ("-1.5e-3", "number"),
        ("1e999", "string"),
        ("1_000", "string"),
        ("1,5", "string"),
        ("1,000", "string"),
        ("007", "string"),
        ("00.5", "string"),
        ("٣", "string"),
        ("inf", "string"),
        ("-", "string"),
        ("True", "boolean"),
        ("yes", "string"),
        ("2024-02-29", "date"),
        ("2023-02-29", "string"),
        ("29.02.2024", "string"),
        ("2024-02-29 10:30", "datetime"),
        ("2024-02-29T10:30:00.250+01:00", "datetime"),
        ("2024-02-29T25:00", "string"),
        ("9" * 5_000, "string"),
    ],
)
def test_cells_have_the_documented_type(cell: str, kind: str) -> None:
    """The type of a cell follows the definitions, hostile figures included."""
    assert classify(cell)[0] == kind


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5"], "number"),
        (["2.5", "1"], "number"),
        (["1", "x"], "string"),
        (["1", "2026-01-01"], "string"),
        (["true", "1"], "string"),
        (["2026-01-01", "2026-01-01 10:00"], "datetime"),
        (["", " "], "empty"),
        (["", "3"], "integer"),
    ],
)
def test_mixtures_have_the_documented_type(profile: Any, cells: list[str], kind: str) -> None:
    """Only integer + number and date + datetime mix; everything else is a string."""
    found = profile("a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    assert found["columns"]["a"]["type"] == kind


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_behind_quoted_text(profile: Any, delimiter: str) -> None:
    """Quoted text full of the other delimiters fools nobody, in the header or below."""
    others = "".join({",", ";", "\t", "|"} - {delimiter}) * 3
    row = [f'"{others}{delimiter}\n{others}"', "1", f'"""{others}"""']
    header = [f'"name{others}"', "n", "note"]
    found = profile("\n".join([delimiter.join(header), *[delimiter.join(row)] * 4]))
    assert found["delimiter"] == delimiter
    assert (found["rows"], len(found["columns"]), found["ragged_rows"]) == (4, 3, 0)
    assert found["columns"]["n"]["mean"] == 1


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("", ","),
        ("one\ntwo, three\n", ","),
        ("id;text\n1;a, b\n2;c, d, e\n", ";"),
        ("preis;menge\n2,50;3\n1,25;4\n", ";"),
        ("id,a|b,c\n1,2,3\n", ","),
        ('x;"a,b,c,d"\n1;"e,f,g,h"\n', ";"),
        ('size,note\n6" pipe,"a;b;c"\n7" pipe,"d;e;f"\n', ","),
    ],
)
def test_delimiter_of_awkward_tables(text: str, delimiter: str) -> None:
    """Decimal commas, free text and single columns get the delimiter that a reader sees."""
    assert detect_delimiter(text) == delimiter


def test_decimal_comma_counts_in_semicolon_tables(profile: Any) -> None:
    """With `;` between the cells, `2,50` is a number."""
    column = profile("preis;menge\n2,50;3\n1,50;4\n")["columns"]["preis"]
    assert column == {"type": "number", "nulls": 0, "min": 1.5, "max": 2.5, "mean": 2.0}


def test_ragged_rows_are_counted_and_kept(profile: Any) -> None:
    """Missing cells are nulls, surplus cells are ignored, both are ragged."""
    found = profile("a,b,c\n1,2,3\n4\n5,6,7,8\n,,\n")
    assert (found["rows"], found["ragged_rows"]) == (4, 2)
    assert [found["columns"][name]["nulls"] for name in "abc"] == [1, 2, 2]


def test_header_names_become_unique(profile: Any) -> None:
    """Unnamed and repeated columns get names of their own that clash with nothing."""
    found = profile("a,,a,a_2,a, column_2 ,\n1,2,3,4,5,6,7\n")
    assert list(found["columns"]) == [
        "a",
        "column_2_2",
        "a_3",
        "a_2",
        "a_4",
        "column_2",
        "column_7",
    ]
    assert [column["min"] for column in found["columns"].values()] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_blank_lines_and_bom(profile: Any, end: str) -> None:
    """LF, CRLF and CR files are one and the same; blank lines are no rows."""
    lines = ["", "a,b", "", '1,"x', 'y"', "   ", "2,z", "", ""]
    found = profile("\ufeff" + end.join(lines))
    assert (found["rows"], list(found["columns"])) == (2, ["a", "b"])
    values = [entry["value"] for entry in found["columns"]["b"]["top_values"]]
    assert values == [f"x{end}y", "z"]


def test_single_column_and_header_only(profile: Any) -> None:
    """One column needs no delimiter, and a header alone has no rows."""
    found = profile('n\n1\n\n""\n2\n')
    assert found["rows"] == 3
    assert found["columns"] == {
        "n": {"type": "integer", "nulls": 1, "min": 1, "max": 2, "mean": 1.5}
    }
    found = profile("a,b")
    assert (found["rows"], found["columns"]["b"]) == (0, {"type": "empty", "nulls": 0})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: a CSV file needs a header line."),
        (b"\xef\xbb\xbf\n \n", "is empty: a CSV file needs a header line."),
        (b"a,b\n1,\xff\n", "is not UTF-8 text: byte 0xff at offset 6 is not valid."),
        (b"a,b\n1,\0\n", "is not text: it contains NUL bytes."),
        (b'a,b\n1,2\n3,"open\n4,5\n', "has a quoted field that is never closed, from line 3."),
        (b'a,b\n1,"', "has a quoted field that is never closed, from line 2."),
    ],
)
def test_unreadable_tables_are_named(profile: Any, content: bytes, reason: str) -> None:
    """The error is one sentence that names the file and the reason."""
    with pytest.raises(UnreadableFile) as caught:
        profile(content)
    assert str(caught.value) == f"some.csv {reason}"


def test_huge_fields_are_read_and_shown_short(profile: Any) -> None:
    """A field of a megabyte is counted; its value is shown by its start."""
    long = "x" * 1_000_000
    found = profile(f"a,b\n1,{long}\n2,{long}y\n3,{long}\n")
    values = found["columns"]["b"]["top_values"]
    assert values == [
        {"value": "x" * 200 + "…", "count": 2},
        {"value": "x" * 200 + "…", "count": 1},
    ]


def test_too_long_fields_and_lines_are_refused(
    profile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits keep a broken file from filling the memory."""
    monkeypatch.setattr(csv_profile, "LONGEST_FIELD", 1_000)
    with pytest.raises(
        UnreadableFile, match=r"near line 2: field larger than field limit \(1000\)"
    ):
        profile("a,b\n1," + "x" * 1_001)
    monkeypatch.setattr(csv_profile, "LONGEST_LINE", BLOCK_BYTES)
    with pytest.raises(UnreadableFile, match="has a line of more than 262,144 characters"):
        profile("a,b\n" + "x," * BLOCK_BYTES)


@pytest.mark.parametrize("shift", range(8))
def test_blocks_do_not_split_lines_or_quotes(profile: Any, shift: int) -> None:
    """Line ends, quotes and letters of several bytes may lie across two blocks."""
    head = "a,b\r\n" + "y" * shift + ",\r\n"
    row = '"é\r\n",7\r\n'
    repeats = 2 * BLOCK_BYTES // len(row.encode())
    found = profile(head + row * repeats)
    assert (found["rows"], found["ragged_rows"]) == (repeats + 1, 0)
    assert found["columns"]["b"] == {"type": "integer", "nulls": 1, "min": 7, "max": 7, "mean": 7}


def test_many_different_values_are_ranked_exactly(
    profile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the values don't fit the memory, further passes give the same ranking."""
    table = "a,b\n" + "".join(f"x{n},y{n % 1_999}\n" for n in range(5_000))
    expected = profile(table)
    monkeypatch.setattr(csv_profile, "DISTINCT_VALUES_IN_MEMORY", 1)
    assert profile(table) == expected


def test_progress_rises_to_one_and_cancel_stops(tmp_path: Path) -> None:
    """Progress is monotone over both passes and ends with 1; cancelling stops."""
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "1,x\n" * 200_000)
    seen: list[float] = []
    profile_csv(path, progress=seen.append)
    assert len(seen) >= 6
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    answers = iter([False] * 4 + [True])
    with pytest.raises(Cancelled):
        profile_csv(path, cancelled=lambda: next(answers))


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), CELLS), min_size=1, max_size=20),
    delimiter=st.sampled_from(",;\t|"),
)
def test_any_table_that_python_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], delimiter: str
) -> None:
    """Whatever text the cells hold, rows, delimiter and figures are those that were written."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("n", "text"), *rows])
    path.write_bytes(out.getvalue().encode())
    found = profile_csv(path)
    numbers = [number for number, _ in rows]
    assert (found["rows"], found["ragged_rows"], found["delimiter"]) == (len(rows), 0, delimiter)
    assert found["columns"]["n"] == {
        "type": "integer",
        "nulls": 0,
        "min": min(numbers),
        "max": max(numbers),
        "mean": pytest.approx(statistics.mean(numbers)),
    }


def test_example_agrees_with_the_standard_reader() -> None:
    """The figures of an example are those of `csv.DictReader` and `statistics`."""
    with (EXAMPLES / "river-gauges.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = profile_csv(EXAMPLES / "river-gauges.csv")
    levels = [float(row["level_cm"]) for row in rows if row["level_cm"]]
    assert found["rows"] == len(rows)
    assert found["columns"]["level_cm"] == {
        "type": "number",
        "nulls": len(rows) - len(levels),
        "min": min(levels),
        "max": max(levels),
        "mean": pytest.approx(statistics.fmean(levels)),
    }
    stations = Counter(row["station"] for row in rows)
    for entry in found["columns"]["station"]["top_values"]:
        assert stations[entry["value"]] == entry["count"]
