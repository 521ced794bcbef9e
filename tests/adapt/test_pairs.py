"""Pairs made of documents: what is a query, and what is left for it to find."""

from __future__ import annotations

from fastlane_st.adapt.held_out import QUERIES, hold_out
from fastlane_st.adapt.pairs import FEWEST_WORDS, MadePair, make_pairs
from fastlane_st.data.rows import CorpusDocument

SHORT = "too few words to be a passage"
LONG = " ".join(f"word{number}" for number in range(60))


def document(text: str, title: str = "") -> CorpusDocument:
    return CorpusDocument("d", text, title)


def test_a_title_is_a_query_for_the_text_without_it() -> None:
    [pair, crop] = make_pairs([document(LONG, title="a title")], seed=0)
    assert pair == MadePair("a title", LONG, 0, "title")
    assert crop.kind == "crop"
    assert "a title" not in crop.positive


def test_a_title_that_documents_share_asks_for_none_of_them() -> None:
    chunks = [document(f"{LONG} {number}", title="The Page") for number in range(2)]
    chunks.append(document(f"{LONG} end", title="the page "))
    pairs = make_pairs([*chunks, document(f"{LONG} alone", title="another")], seed=0)
    assert [pair.query for pair in pairs if pair.kind == "title"] == ["another"]
    assert {pair.document for pair in pairs if pair.kind == "crop"} == {0, 1, 2, 3}


def test_a_heading_is_a_query_for_its_own_section() -> None:
    text = f"# First\n{LONG}\n\n## Empty\n{SHORT}\n## Last ##\n{LONG} end"
    pairs = make_pairs([document(text, title="Book")], seed=0)
    assert [(pair.query, pair.positive) for pair in pairs if pair.kind == "heading"] == [
        ("Book First", LONG),
        ("Book Last", f"{LONG} end"),
    ]
    plain = make_pairs([document(text)], seed=0)
    assert [pair.query for pair in plain if pair.kind == "heading"] == ["First", "Last"]


def test_a_crop_is_taken_out_of_its_text() -> None:
    for seed in range(50):
        [pair] = make_pairs([document(LONG)], seed)
        crop, rest = pair.query.split(), pair.positive.split()
        assert not set(crop) & set(rest)
        assert sorted(crop + rest) == sorted(LONG.split())
        assert len(rest) >= FEWEST_WORDS


def test_short_or_empty_documents_make_no_pairs() -> None:
    documents = [document(SHORT, title="a title"), document("", title="alone"), document("")]
    assert make_pairs(documents, seed=0) == []


def test_the_same_seed_makes_the_same_pairs() -> None:
    documents = [document(f"{LONG} {number}") for number in range(9)]
    assert make_pairs(documents, seed=3) == make_pairs(documents, seed=3)
    assert make_pairs(documents, seed=3) != make_pairs(documents, seed=4)


def test_held_out_queries_have_their_document_without_the_query() -> None:
    documents = [document(f"{LONG} {number}", title=f"title {number}") for number in range(50)]
    documents.append(document(SHORT))
    held = hold_out(make_pairs(documents, seed=0), documents, "ours", seed=0)
    assert len(held.queries) == len(documents) // 5 < QUERIES
    assert len(held.documents) == len(documents)
    for number, query in held.queries.items():
        assert query == f"title {number}"
        assert held.documents[number] == documents[int(number)].text
        assert held.qrels[number] == {number: 1}
