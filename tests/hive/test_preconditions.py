"""Entity tags as they are read, and the versions that `If-Match` stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import PreconditionFailed
from hive.preconditions import CODINGS, EntityTag, ExpectedVersions, read_if_match, read_tags

OPAQUE = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters='"\x7f'), max_size=20
).filter(lambda text: not text.endswith(CODINGS))


@given(st.lists(st.tuples(OPAQUE, st.sampled_from(["", *CODINGS]), st.booleans()), min_size=1))
def test_tags_are_read_as_they_were_written(tags: list[tuple[str, str, bool]]) -> None:
    """Whatever stands in them, commas too."""
    written = ", ".join(f'{"W/" if weak else ""}"{text}{coding}"' for text, coding, weak in tags)
    assert read_tags(written) == tuple(EntityTag(*tag) for tag in tags)


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    """It has tags or none; nothing is raised."""
    read_tags(text)
    read_if_match(text)


@pytest.mark.parametrize(
    ("field", "versions"),
    [
        ('"7.ab"', {7}), ('"7"', {7}), ('"7.ab", "8.cd"', {7, 8}), ('"0.ab"', {0}),
        ('"7.ab-gzip"', {7}), ('"7-br"', {7}), ('W/"7.ab"', set()), ('W/"7.ab", "8"', {8}),
        ("7", set()), ('"07"', set()), ('"-7"', set()), ('"7', set()), ('"ab"', set()),
        ('"7" x', set()), ("", set()), ('"99999999999999999"', set()), ('"\u0667"', set()),
    ],
)  # fmt: skip
def test_if_match_names_versions(field: str, versions: set[int]) -> None:
    """Those of its strong tags; what can't be read matches nothing."""
    assert read_if_match(field) == ExpectedVersions(frozenset(versions))


@pytest.mark.parametrize("field", [None, "*", " * "])
def test_any_version_is_no_condition(field: str | None) -> None:
    """Of what exists, `*` is true."""
    assert read_if_match(field) is None


def test_other_versions_are_refused_before_the_decision() -> None:
    """And the refusal says which version there is."""
    expected = ExpectedVersions(frozenset({7}))

    class Seen:
        version = 8

    def decide(_: Seen) -> None:
        raise AssertionError

    with pytest.raises(PreconditionFailed, match="version 8"):
        expected.guard(decide)(Seen())
