"""What a text profile counts, against counts made by hand and by simpler means."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.demo import text_profile
from server.demo.ranking import Ranking
from server.demo.reading import BLOCK_BYTES, Cancelled, UnreadableFile
from server.demo.text_profile import profile_text

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture
def profile(tmp_path: Path) -> Any:
    """Profile a text given as a string or as bytes."""

    def of(text: str | bytes) -> dict[str, Any]:
        path = tmp_path / "some.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return profile_text(path)

    return of


def test_small_text_has_exact_numbers(profile: Any) -> None:
    """Every figure of a small text is what a reader counts."""
    assert profile("The cat sat. The dog ran!\nDid the bird sing?\n") == {
        "kind": "text",
        "characters": 45,
        "words": 10,
        "sentences": 3,
        "top_words": [
            {"word": "the", "count": 3},
            {"word": "bird", "count": 1},
            {"word": "cat", "count": 1},
            {"word": "did", "count": 1},
            {"word": "dog", "count": 1},
            {"word": "ran", "count": 1},
            {"word": "sat", "count": 1},
            {"word": "sing", "count": 1},
        ],
        "reading_time_seconds": 3.0,
        "words_per_minute": 200,
    }


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("--- !!! ...", 0),
        ("no end mark", 1),
        ("One. Two", 2),
        ("Really?! Yes... Well", 3),
        ("Pi is 3.14 and a.b is one.", 1),
        ("Dr. Low met Mrs. High, e.g. at noon.", 1),
        ("It is vs. that. Fine.", 2),
        ('"Come." (He came.) **Good!** “Go.”', 4),
        ("# Title\n\nText follows. More.\n", 2),
        ("1. First thing.\n2. Second thing.\n", 2),
        ("In a line 5. Then more.", 2),
        ("Windows\r\nline. Ends.\r\n", 2),
        ("今日は。元気\uff1fはい\uff01", 3),
        ("One.Two", 1),
        ("Wait… what", 2),
        ("„Komm.“ Er ging. »Ja!« Gut.", 4),
    ],
)
def test_sentences_are_cut_as_defined(profile: Any, text: str, sentences: int) -> None:
    """End marks cut before white space only, and never after abbreviations or list numbers."""
    assert profile(text)["sentences"] == sentences


def test_top_words_fold_case_and_keep_inner_marks(profile: Any) -> None:
    """Case, curly apostrophes, emphasis and punctuation don't split or double a word."""
    text = (
        "Don't don\u2019t DON'T well-known (Well-Known) _well-known_ and/or "
        "STRASSE Straße file_name"
    )
    found = [(entry["word"], entry["count"]) for entry in profile(text)["top_words"]]
    assert found == [
        ("don't", 3),
        ("well-known", 3),
        ("strasse", 2),
        ("and", 1),
        ("file_name", 1),
        ("or", 1),
    ]


def test_top_words_keep_combining_marks(profile: Any) -> None:
    """Decomposed letters equal composed ones, and Hindi words stay whole."""
    found = [entry["word"] for entry in profile("cafe\u0301 caf\u00e9 हिन्दी")["top_words"]]
    assert found == ["caf\u00e9", "हिन्दी"]


def test_top_words_are_ten_with_alphabetical_ties(profile: Any) -> None:
    """Only ten words are listed; among equals the alphabet decides."""
    found = [e["word"] for e in profile("k j i h g f e d c b a l l")["top_words"]]
    assert found == ["l", *"abcdefghi"]


def test_byte_order_mark_is_not_text(profile: Any) -> None:
    """A BOM counts neither as a character nor as part of the first word."""
    found = profile(b"\xef\xbb\xbfone two")
    assert (found["characters"], found["words"]) == (7, 2)
    assert found["top_words"][0]["word"] == "one"


def test_empty_file_is_a_text_of_nothing(profile: Any) -> None:
    """An empty text is no error."""
    found = profile("")
    assert (found["characters"], found["words"], found["reading_time_seconds"]) == (0, 0, 0)
    assert found["top_words"] == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"abc \xff def", "is not UTF-8 text: byte 0xff at offset 4 is not valid."),
        (b"\xef\xbb\xbfabc \xff", "is not UTF-8 text: byte 0xff at offset 7 is not valid."),
        (b"abc \xe2\x82", "is not UTF-8 text: byte 0xe2 at offset 4 is not valid."),
        (b"x" * (BLOCK_BYTES - 1) + b"\xe2x", f"byte 0xe2 at offset {BLOCK_BYTES - 1} is not"),
        (b"abc\0def", "is not text: it contains NUL bytes."),
        ("hello".encode("utf-16"), "is UTF-16, not UTF-8: save it as UTF-8."),
    ],
)
def test_what_is_no_utf_8_text_is_named(profile: Any, content: bytes, reason: str) -> None:
    """The error is one sentence that names the file and the reason."""
    with pytest.raises(UnreadableFile) as caught:
        profile(content)
    assert str(caught.value).startswith("some.txt ")
    assert reason in str(caught.value)


def test_missing_file_directory_and_pipe_are_named(tmp_path: Path) -> None:
    """What can't be opened as a file fails at once; a pipe doesn't make anybody wait."""
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name, reason in [
        ("gone.txt", "does not exist."),
        ("folder.txt", "is a directory, not a file."),
        ("pipe.txt", "is not a regular file."),
        ("x" * 300 + ".txt", "can't be read: File name too long."),
        ("nul\0.txt", "can't be read: embedded null byte."),
    ]:
        with pytest.raises(UnreadableFile, match=re.escape(reason)):
            profile_text(tmp_path / name)


def test_error_shows_strange_names_on_one_line(tmp_path: Path) -> None:
    """Line ends and undecodable bytes of a name are escaped."""
    with pytest.raises(UnreadableFile) as caught:
        profile_text(tmp_path / "a\nb\udcff.txt")
    assert str(caught.value) == "a\\nb\\udcff.txt does not exist."


def test_progress_rises_to_one_and_cancel_stops(tmp_path: Path) -> None:
    """Progress is monotone and ends with 1; a true `cancelled()` stops the work."""
    path = tmp_path / "long.txt"
    path.write_text("some words here.\n" * 60_000)
    seen: list[float] = []
    profile_text(path, progress=seen.append)
    assert len(seen) >= 4
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    answers = iter([False, True])
    with pytest.raises(Cancelled):
        profile_text(path, cancelled=lambda: next(answers))


def test_blocks_do_not_change_the_counts(tmp_path: Path) -> None:
    """Words, sentences and characters that lie across blocks are counted once."""
    path = tmp_path / "blocks.txt"
    for unit in ("äöü Mr. X said no. ", "a1.b2… Ja!\r\n", "x" * 70_000 + "\t", "é" * 999 + ". "):
        repeats = 3 * BLOCK_BYTES // len(unit.encode()) + 1
        path.write_bytes((unit * repeats).encode())
        found = profile_text(path)
        assert found["characters"] == len(unit) * repeats
        assert found["words"] == len((unit * repeats).split())
        ends = {"ä": 1, "a": 2, "x": 0, "é": 1}[unit[0]]
        assert found["sentences"] == (ends * repeats or 1)


def test_text_without_spaces_stays_bounded(tmp_path: Path) -> None:
    """A run of several megabytes is one word, and a file of dots takes no quadratic time."""
    path = tmp_path / "run.txt"
    path.write_text("a" * 3_000_000)
    found = profile_text(path)
    assert (found["words"], found["top_words"][0]["word"]) == (1, "a" * 100)
    path.write_text("." * 500_000 + "a." * 250_000)
    assert profile_text(path)["sentences"] == 1


def test_many_different_words_are_ranked_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the words don't fit the memory, further passes give the same ranking."""
    path = tmp_path / "many.txt"
    path.write_text(" ".join(f"w{n % 997} v{n}" for n in range(5_000)))
    expected = profile_text(path)
    monkeypatch.setattr(text_profile, "DISTINCT_WORDS_IN_MEMORY", 100)
    assert profile_text(path) == expected


@given(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=200), st.integers(1, 20))
def test_ranking_equals_a_plain_counter(values: list[str], capacity: int) -> None:
    """Whatever the capacity, the ranking is that of a counter that holds everything."""
    ranking = Ranking(size=5, capacity=capacity)
    while True:
        for start in range(0, len(values), 7):
            ranking.add(values[start : start + 7])
        if ranking.finish_pass():
            break
    expected = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:5]
    assert ranking.top() == expected


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_agrees_with_split(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Words are `len(text.split())` and characters `len(text)` for every text."""
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    text = text.removeprefix("\ufeff")
    found = profile_text(path)
    assert (found["words"], found["characters"]) == (len(text.split()), len(text))
    assert found["sentences"] <= max(1, found["characters"])
    assert bool(found["sentences"]) == bool(re.search(r"[^\W_]", text))


@pytest.mark.parametrize("name", ["essay-on-waiting.txt", "reise-tagebuch.txt"])
def test_examples_agree_with_a_naive_count(name: str) -> None:
    """On ordinary prose the figures are those of the obvious one-liners."""
    text = (EXAMPLES / name).read_text(encoding="utf-8-sig")
    found = profile_text(EXAMPLES / name)
    assert found["words"] == len(text.split())
    naive = [piece for piece in re.split(r"[.!?…]+[”“\"]?(?:\s+|$)", text) if piece.strip()]
    assert abs(found["sentences"] - len(naive)) <= 1
    words = Counter(re.findall(r"\w+(?:['-]\w+)*", text.casefold()))
    for entry in found["top_words"]:
        assert words[entry["word"]] == entry["count"]
