"""Explanations of hits: full MaxSim's word matches, and what each word contributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, Hit
from fastlane_st.index.explaining import Explanation, WordMatch
from fastlane_st.index.tokens import SideTokenizer
from tests.conftest import DOCUMENTS, WORDS
from tests.support.encoders import WordEncoder

LONG = " ".join(WORDS * 2)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> FastLaneIndex:
    return FastLaneIndex.build(FastLaneEncoder(checkpoint), [*DOCUMENTS, LONG])


def slow_matches(encoder: Any, query: str, text: str) -> list[tuple[str, str, float, float]]:
    """By loops: each query word, the word it met, their similarity and what is particular to it."""
    queries = encoder.encode_query(query, num_routes=None).float().numpy()
    documents = encoder.encode_document(text, num_routes=None).float().numpy()
    similarities = [[float(np.dot(q, d)) for d in documents] for q in queries]
    mean = sum(map(sum, similarities)) / (len(queries) * len(documents))
    found = []
    for number, row in enumerate(similarities):
        place = max(range(len(row)), key=lambda place: row[place])
        others = [other[place] for other in similarities]
        del others[number]
        expected = sum(others) / max(len(others), 1) + sum(row) / len(row) - mean
        found.append(
            (query.split()[number], text.split()[place], row[place], row[place] - expected)
        )
    return found


@pytest.mark.parametrize("query", ["sort the long list", "read a file"])
def test_words_meet_what_full_maxsim_matches(index: FastLaneIndex, query: str) -> None:
    hits = [hit for hit in index.search(query, num_routes=1) if hit.span is None]
    for hit, explanation in zip(hits, index.explain(query, hits), strict=True):
        assert hit.text is not None
        expected = slow_matches(index.encoder, query, hit.text)
        found = explanation.to_dict(query, hit.text)
        assert explanation.id == hit.id
        assert found["maxsim"] == pytest.approx(sum(one[2] for one in expected), abs=1e-4)
        assert [(one["query_word"], one["document_word"]) for one in found["words"]] == [
            one[:2] for one in expected
        ]
        for word, (_, _, similarity, contribution) in zip(found["words"], expected, strict=True):
            assert word["similarity"] == pytest.approx(similarity, abs=1e-4)
            assert word["contribution"] == pytest.approx(contribution, abs=1e-4)
        json.dumps(found)


def test_a_query_of_one_word_contributes_its_similarity(index: FastLaneIndex) -> None:
    hits = index.search("sort", top_k=2, num_routes=1)
    for explanation in index.explain("sort", hits):
        [match] = explanation.matches
        assert match.contribution == pytest.approx(match.similarity, abs=1e-6)
        assert explanation.score == pytest.approx(match.similarity, abs=1e-6)


def test_a_long_document_is_explained_by_the_window_that_was_found(index: FastLaneIndex) -> None:
    for query in ("sort the long list", "json"):
        [hit] = [hit for hit in index.search(query, top_k=10, num_routes=1) if hit.span]
        assert hit.span is not None
        [explanation] = index.explain(query, [hit])
        for match in explanation.matches:
            assert match.document_span is not None
            start, end = match.document_span
            assert hit.span[0] <= start < end <= hit.span[1]
            assert LONG[start:end] in WORDS
        [whole] = index.explain(query, [Hit(hit.id, hit.score, hit.matches, hit.text)])
        assert whole.score >= explanation.score - 1e-6
        for match in whole.matches:
            assert match.document_span is not None
            assert LONG[slice(*match.document_span)] in WORDS
        [best] = hit.matches
        side = SideTokenizer.of(index.encoder, "query")
        assert side is not None
        [route] = side.word_spans(query, [best.query_position])
        assert route is not None


def test_strong_words_are_those_near_the_strongest() -> None:
    matches = [WordMatch((n, n + 1), (0, 1), 0.5, gain) for n, gain in enumerate((0.2, 0.5, 0.25))]
    assert Explanation("a", 1.0, tuple(matches)).strong == [matches[1], matches[2]]
    assert Explanation("a", 1.0, ()).strong == []
    negative = WordMatch((0, 1), (0, 1), -0.5, -0.1)
    assert Explanation("a", 1.0, (negative,)).strong == []


def test_punctuation_and_special_tokens_are_no_words(index: FastLaneIndex) -> None:
    query = "how do i parse json ?"
    [explanation] = index.explain(query, index.search(query, top_k=1))
    words = [query[slice(*match.query_span)] for match in explanation.matches]
    assert words == ["how", "do", "i", "parse", "json"]


def test_words_are_found_behind_prompts(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.prompts |= {"query": "python ", "document": "file "}
    index = FastLaneIndex.build(encoder, DOCUMENTS)
    [explanation] = index.explain("sort the list", index.search("sort the list", top_k=1))
    assert [match.query_span for match in explanation.matches] == [(0, 4), (5, 8), (9, 13)]


def test_vectors_without_texts_have_no_document_words(index: FastLaneIndex) -> None:
    vectors = [index.encoder.encode_document(text) for text in DOCUMENTS]  # type: ignore[union-attr]
    bare = FastLaneIndex.from_embeddings(vectors, encoder=index.encoder)
    [explanation] = bare.explain("sort", bare.search("sort", top_k=1))
    assert explanation.matches[0].document_span is None
    assert explanation.to_dict("sort", None)["words"][0]["document_word"] is None


def test_saved_and_quantised_indexes_explain(index: FastLaneIndex, tmp_path: Path) -> None:
    query = "sort the long list"
    hits = index.search(query, top_k=3)
    expected = [one.matches for one in index.explain(query, hits)]
    index.save(tmp_path / "index")
    loaded = FastLaneIndex.load(tmp_path / "index", index.encoder, memory_map=True)
    assert [one.matches for one in loaded.explain(query, hits)] == expected
    half = FastLaneIndex.build(index.encoder, [*DOCUMENTS, LONG], storage="float16")  # type: ignore[arg-type]
    found = [one.matches for one in half.explain(query, hits)]
    assert [[one.query_span for one in each] for each in found] == [
        [one.query_span for one in each] for each in expected
    ]


def test_what_cannot_be_explained_says_so(index: FastLaneIndex) -> None:
    hits = index.search("sort", top_k=1)
    assert index.explain("sort", []) == []
    with pytest.raises(ValueError, match="query must be the text that was searched, got list"):
        index.explain(["sort"], hits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="query 0 is empty"):
        index.explain(" ", hits)
    with pytest.raises(ValueError, match="hit 0 must be a Hit of search, got int"):
        index.explain("sort", [3])  # type: ignore[list-item]
    gone = Hit("gone", 1.0, hits[0].matches, None)
    with pytest.raises(ValueError, match="no document has the id 'gone' any more: search again"):
        index.explain("sort", [gone])
    words = FastLaneIndex.build(WordEncoder(), ["red car"])
    with pytest.raises(
        ValueError, match="needs the encoder's tokenizer, which only FastLane encoders"
    ):
        words.explain("red", words.search("red"))
    without = FastLaneIndex.from_embeddings([[[1.0, 0.0]]])
    with pytest.raises(ValueError, match="text queries need an encoder"):
        without.explain("red", without.search([[[1.0, 0.0]]])[0])


@pytest.mark.slow
def test_words_that_carry_little_are_not_strong() -> None:
    encoder = FastLaneEncoder("fastlane-minilm")
    texts = [
        "getpass.getpass prompts the user for a password without echoing what is typed.",
        "heapq.nlargest finds the n largest elements in a dataset.",
        "tempfile.TemporaryDirectory creates a directory that is removed when it is closed.",
    ]
    index = FastLaneIndex.build(encoder, texts)
    for query, number, carried in (
        ("How do I ask the user for a password?", 0, "password"),
        ("How do I find the three biggest numbers of it?", 1, "biggest"),
        ("How do I make a temporary folder that is deleted when I'm done?", 2, "folder"),
    ):
        [hit] = index.search(query, top_k=1, num_routes=1)
        assert hit.id == number
        [explanation] = index.explain(query, [hit])
        strong = {query[slice(*match.query_span)].lower() for match in explanation.strong}
        assert carried in strong
        assert not strong & {"how", "do", "i", "the", "a", "of", "it", "is", "that", "for"}
