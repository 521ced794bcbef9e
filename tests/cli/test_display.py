"""Hits as text: marks, excerpts, escapes and colours."""

from __future__ import annotations

from io import StringIO

import pytest

from fastlane_st import Hit, Match
from fastlane_st.cli.display import (
    ANSI_MARKS,
    MARKS,
    excerpt,
    format_hits,
    mark,
    printable,
    shows_color,
)
from fastlane_st.index.explaining import Explanation, WordMatch


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def explained(
    hit: Hit, *words: tuple[tuple[int, int], tuple[int, int] | None, float]
) -> Explanation:
    """An explanation of query words, what each met, and how much it contributes."""
    return Explanation(hit.id, 1.0, tuple(WordMatch(a, b, 0.5, gain) for a, b, gain in words))


def test_marks_and_excerpts_fall_on_words() -> None:
    assert mark("sort the long list", [(0, 4), (9, 13)], MARKS) == "»sort« the »long« list"
    long = "a " * 50 + "here " + "b " * 50
    assert excerpt(long, [(100, 104)], (100, 104), ANSI_MARKS, 20) == (
        "… a a a a a \033[1;33mhere\033[0m b b b …"
    )


def test_words_that_carried_the_scores_are_marked() -> None:
    query = "how do i sort the list"
    one = Hit("a", 0.5, (Match(1, 1, 0.5),), "the list is sorted")
    two = Hit("b", 0.4, (Match(1, 1, 0.4),), "the order")
    explanations = [
        explained(one, ((0, 3), (0, 3), 0.1), ((9, 13), (12, 18), 0.5), ((18, 22), (4, 8), 0.3)),
        explained(two, ((0, 3), (0, 3), 0.1), ((9, 13), (4, 9), 0.4), ((18, 22), None, -0.2)),
    ]
    assert format_hits(query, [one, two], explanations).splitlines() == [
        "how do i »sort« the list",
        "",
        "  1.  0.5000  a",
        "      the »list« is »sorted«",
        "",
        "  2.  0.4000  b",
        "      the »order«",
    ]


def test_an_excerpt_of_a_long_document_is_of_its_window() -> None:
    text = "alpha " * 100 + "beta sort gamma" + " delta" * 100
    start = text.index("beta")
    hit = Hit("a", 0.5, (Match(1, 1, 0.5),), text, {}, (start, start + 15))
    found = explained(hit, ((0, 4), (start + 5, start + 9), 0.5))
    assert format_hits("sort", [hit], [found]).splitlines()[-1] == "      … beta »sort« gamma …"
    unmet = explained(hit, ((0, 4), None, 0.5))
    assert format_hits("sort", [hit], [unmet]).splitlines()[-1] == "      … beta sort gamma …"


@pytest.mark.parametrize("width", [15, 20, 33, 60])
def test_an_excerpt_is_cut_between_words(width: int) -> None:
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu"
    for center in range(0, len(words), 7):
        shown = excerpt(words, [], (center, center), MARKS, width)
        assert set(shown.removeprefix("… ").removesuffix(" …").split()) <= set(words.split())
    assert excerpt("alpha\nbeta gamma ", [], (0, 0), MARKS, 10) == "alpha beta …"
    assert excerpt("alpha beta ", [], (0, 0), MARKS, 10) == "alpha beta"


def test_a_text_without_spaces_is_cut_around_the_match() -> None:
    text = "東" * 500 + "京" + "東" * 500
    assert excerpt(text, [(500, 501)], (500, 501), MARKS, 20) == f"… {'東' * 10}»京«{'東' * 9} …"


def test_no_hits_say_so() -> None:
    assert format_hits("sort", [], []) == "nothing found"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve café, 東京 🏙", "naïve café, 東京 🏙"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\0\x7f\x9b", r"a\nb\tc\x00\x7f\x9b"),
        ("a\u202eb\u2066c\u2028", r"a\u202eb\u2066c\u2028"),
        ("caf\udce9", r"caf\udce9"),
        ("👩\u200d👧", "👩\u200d👧"),  # one emoji, which a joiner makes of two
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("color", [False, True])
def test_ids_and_texts_of_documents_steer_no_terminal(color: bool) -> None:
    hit = Hit("c\n\x1b]0;title\x07", 0.5, (Match(1, 1, 0.5),), "sort\x1b[2J the\n\tlist")
    found = [explained(hit, ((0, 4), (0, 4), 0.5), ((5, 9), (14, 18), 0.1))]
    lines = format_hits("sort\nlist", [hit], found, color=color).splitlines()
    opening, closing = ANSI_MARKS if color else MARKS
    assert lines == [
        f"{opening}sort{closing} list",
        "",
        r"  1.  0.5000  c\n\x1b]0;title\x07",
        rf"      {opening}sort{closing}\x1b[2J the list",
    ]


def test_a_hit_is_json_with_its_matches() -> None:
    hit = Hit("a", 1.5, (Match(1, 2, 1.5),), None, {"year": 2020})
    assert hit.to_dict() == {
        "id": "a",
        "score": 1.5,
        "text": None,
        "metadata": {"year": 2020},
        "span": None,
        "matches": [{"query_position": 1, "document_position": 2, "similarity": 1.5}],
    }


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert shows_color(Terminal())
    assert not shows_color(StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_color(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_color(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # as if it weren't set, by its convention
    assert shows_color(Terminal())
