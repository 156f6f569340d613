"""Profile of one text file: how long it is, how long it takes to read, and its favourite words.

Definitions
- *characters*: Unicode code points, line ends included, a byte order mark excluded (`wc -m`).
- *words*: runs of characters other than white space (`wc -w`, `len(text.split())`). A Markdown mark
  that stands alone (`#`, `-`) therefore counts, as it does for every word counter of an editor.
- *sentences*: the text is cut after each end mark (`.` `!` `?` `…` or a run of them, with closing
  quotes, brackets and emphasis) that white space or the end of the text follows; the wide marks of
  Chinese and Japanese need nothing after them. Each piece with a letter or digit is a sentence. So
  `3.14` and `a.b` do not cut; a heading belongs to the sentence after it; a last sentence needs no
  end mark. No cut after `Mr. Mrs. Ms. Dr. Prof. e.g. i.e. cf. vs.`, nor after a list number
  (`2.` opening a line).
- *top_words*: the ten most frequent words without regard to case (case-folded), here taken as runs
  of letters and digits that may hold single apostrophes, hyphens and underscores inside:
  `don't` and `well-known` are one word, `and/or` two. A word is shown up to 100
  characters. Ties are alphabetical.
- *reading_time_seconds*: words at 200 words per minute.

Markdown is read as the plain text that it is.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from server.demo.ranking import Ranking
from server.demo.reading import IsCancelled, Progress, read_text

WORDS_PER_MINUTE = 200
TOP_WORDS = 10
DISTINCT_WORDS_IN_MEMORY = 1_000_000
LONGEST_RUN = 1 << 20
LONGEST_WORD = 100

_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
_HYPHEN = "\N{HYPHEN}"
_MARKS = ".!?…؟।"
_WIDE_MARKS = "\u3002\uff01\uff1f"
# German closes with marks that open in English and French.
_CLOSERS = rf"\"'“”{_APOSTROPHE}\u2018«»\u2039\u203a)\]}}*_`」』\uff09"
# The look-behind and the possessive quantifiers keep a file full of dots linear.
_END_MARK = re.compile(
    rf"(?<![{_MARKS}])[{_MARKS}]++[{_CLOSERS}]*+(?=\s|\Z)"
    rf"|(?<![{_WIDE_MARKS}])[{_WIDE_MARKS}]++[{_CLOSERS}]*+"
)
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_ABBREVIATION = re.compile(r"(?:\A|[^\w.])(?:mrs?|ms|dr|prof|e\.g|i\.e|cf|vs)\Z", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"(?:\A|[\r\n])[ \t]*[0-9]{1,3}\Z")
_LOOK_BACK = 24
_ASCII_WORD = re.compile(r"[a-z0-9]\w*(?:['-]\w+)*", re.ASCII)


def profile_text(
    path: str | Path,
    *,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> dict[str, Any]:
    """Profile a UTF-8 text file by the definitions of this module.

    Memory is bounded whatever the size of the file. Raises `UnreadableFile` and `Cancelled`.
    """
    counts = _Counts()
    ranking = Ranking(size=TOP_WORDS, capacity=DISTINCT_WORDS_IN_MEMORY)
    for block in _whole_words(read_text(path, progress=progress, cancelled=cancelled)):
        counts.add(block)
        ranking.add(_words(block))
    while not ranking.finish_pass():
        for block in _whole_words(read_text(path, cancelled=cancelled)):
            ranking.add(_words(block))
    if progress is not None:
        progress(1.0)
    return {
        "kind": "text",
        "characters": counts.characters,
        "words": counts.words,
        "sentences": counts.sentences + counts.unfinished,
        "top_words": [{"word": word, "count": count} for word, count in ranking.top()],
        "reading_time_seconds": round(counts.words * 60 / WORDS_PER_MINUTE, 1),
        "words_per_minute": WORDS_PER_MINUTE,
    }


class _Counts:
    """The counters that add up over blocks, and what is still open at the end of a block."""

    def __init__(self) -> None:
        self.characters = 0
        self.words = 0
        self.sentences = 0
        self.unfinished = False
        self._inside_word = False
        self._line_starts = True

    def add(self, block: str) -> None:
        self.characters += len(block)
        self.words += len(block.split())
        if self._inside_word and not block[0].isspace():
            self.words -= 1
        self._count_sentences(block)
        self._inside_word = not block[-1].isspace()
        self._line_starts = block[-1] in "\r\n"

    def _count_sentences(self, block: str) -> None:
        start = 0
        for mark in _END_MARK.finditer(block):
            if mark.group() == "." and not self._ends_sentence(block, mark.start()):
                continue
            if self.unfinished or _LETTER_OR_DIGIT.search(block, start, mark.start()):
                self.sentences += 1
                self.unfinished = False
            start = mark.end()
        if not self.unfinished:
            self.unfinished = _LETTER_OR_DIGIT.search(block, start) is not None

    def _ends_sentence(self, block: str, dot: int) -> bool:
        before = block[max(0, dot - _LOOK_BACK) : dot]
        if dot >= _LOOK_BACK or not self._line_starts:
            before = f"x {before}" if dot < _LOOK_BACK else f"x{before}"
        return not (_ABBREVIATION.search(before) or _LIST_NUMBER.search(before))


def _whole_words(pieces: Iterator[str]) -> Iterator[str]:
    """Regroup a text into blocks that end after a line, else after a space; never empty.

    A run of more than 1 Mi characters without a space is cut, so that it can't fill the memory.
    """
    carry = ""
    for piece in pieces:
        text = carry + piece
        cut = (text.rfind("\n") + 1) or (text.rfind(" ") + 1)
        if not cut and len(text) > LONGEST_RUN:
            cut = len(text)
        if cut:
            yield text[:cut]
        carry = text[cut:]
    if carry:
        yield carry


def _words(block: str) -> list[str]:
    if block.isascii():
        words = _ASCII_WORD.findall(block.lower())
    else:
        folded = unicodedata.normalize("NFC", block).casefold().replace(_APOSTROPHE, "'")
        words = _unicode_word().findall(folded)
    if "_" in block or max(map(len, words), default=0) > LONGEST_WORD:
        return [word.rstrip("_")[:LONGEST_WORD] for word in words]
    return words


@cache
def _unicode_word() -> re.Pattern[str]:
    # Python's \w leaves out combining marks, without which Hindi or Thai words fall to pieces.
    marks = "".join(
        char
        for char in map(chr, range(0x300, min(0x20000, sys.maxunicode)))
        if unicodedata.category(char)[0] == "M"
    )
    inner = rf"[\w{marks}]"
    return re.compile(rf"[^\W_]{inner}*(?:['\-{_HYPHEN}]{inner}+)*")
