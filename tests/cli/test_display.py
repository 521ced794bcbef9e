"""Hits as text: marks, excerpts, escapes and colours."""

from __future__ import annotations

from copy import copy, deepcopy
from io import StringIO

import pytest

from fastlane_st import FastLaneModel, Hit, Match
from fastlane_st.cli.display import (
    ANSI_MARKS,
    MARKS,
    excerpt,
    format_hits,
    mark,
    printable,
    shows_color,
    word_spans,
)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_marks_fall_on_words_and_excerpts_around_them(model: FastLaneModel) -> None:
    text = "sort the long list"
    assert word_spans(model, text, [3, 1], "query") == [(0, 4), (9, 13)]
    assert word_spans(model, text, [0, 5], "query") == []  # the special tokens
    assert mark(text, [(0, 4), (9, 13)], MARKS) == "»sort« the »long« list"
    long = "a " * 50 + "here " + "b " * 50
    assert excerpt(long, [(100, 104)], (100, 104), ANSI_MARKS, 20) == (
        "… a a a a a \033[1;33mhere\033[0m b b b …"
    )


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


def test_no_hits_say_so(model: FastLaneModel) -> None:
    assert format_hits(model, "sort", []) == "nothing found"


def test_words_behind_a_prompt_are_counted_from_the_text(model: FastLaneModel) -> None:
    prompted = copy(model)
    prompted.config = deepcopy(model.config)
    prompted.config.query_prompt = "python "
    assert word_spans(prompted, "sort the list", [1, 2, 4], "query") == [(0, 4), (9, 13)]
    assert word_spans(prompted, "sort the list", [1], "document") == [(0, 4)]


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
def test_ids_and_texts_of_documents_steer_no_terminal(model: FastLaneModel, color: bool) -> None:
    hit = Hit("c\n\x1b]0;title\x07", 0.5, (Match(1, 1, 0.5),), "sort\x1b[2J the\n\tlist")
    lines = format_hits(model, "sort\nlist", [hit], color=color).splitlines()
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
