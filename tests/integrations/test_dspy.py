"""DSPy: the retriever in modules, as the configured retrieval model, and as a tool."""

from __future__ import annotations

import pytest

pytest.importorskip("dspy")

import dspy

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.integrations.dspy import FastLaneRetriever

LONG = "sort the list of number " * 8 + "open the path to json"


def test_a_call_gives_what_the_index_finds(index: FastLaneIndex) -> None:
    hits = index.search("read a file", 3, num_routes=2)
    found = FastLaneRetriever(index, num_routes=2)("read a file")
    assert isinstance(found, dspy.Prediction)
    assert found.passages == [hit.text for hit in hits]
    assert found.indices == [hit.id for hit in hits]
    assert found.scores == [hit.score for hit in hits]
    assert found.metadata == [hit.metadata for hit in hits]
    assert found.spans == [None] * 3
    again = FastLaneRetriever(index, k=1)("read a file", k=3, num_routes=2)
    assert again.indices == found.indices
    reranked = FastLaneRetriever(index, k=2, rerank=6)("read a file")
    assert reranked.indices == [hit.id for hit in index.search("read a file", 2, rerank=6)]


def test_filters_are_the_indexs(index: FastLaneIndex) -> None:
    retriever = FastLaneRetriever(index, k=9, filter={"year": {"$gte": 2021}})
    assert set(retriever("json").indices) == {"sort", "join", "set"}
    assert set(retriever("json", filter={"year": 2020}).indices) == {"open"}
    with pytest.raises(ValueError, match=r"'year' has the operator '\$regex'"):
        retriever("json", filter={"year": {"$regex": "2"}})


def test_windows_of_long_documents(encoder: FastLaneEncoder) -> None:
    index = FastLaneIndex.build(encoder, [LONG], ids=[7])
    whole = FastLaneRetriever(index)("json")
    window = FastLaneRetriever(index, windows=True)("json")
    [(start, end)] = whole.spans
    assert (whole.passages, whole.indices) == ([LONG], [7])
    assert window.passages == [LONG[start:end]] != [LONG]


def test_modules_call_it(index: FastLaneIndex) -> None:
    class Quote(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.retrieve = FastLaneRetriever(index, k=1)

        def forward(self, question: str) -> object:
            return dspy.Prediction(answer=self.retrieve(question).passages[0])

    [hit] = index.search("read a file", 1)
    assert Quote()(question="read a file").answer == hit.text


def test_it_is_the_configured_retrieval_model(index: FastLaneIndex) -> None:
    expected = [hit.text for hit in index.search("read a file", 2)]
    with dspy.context(rm=FastLaneRetriever(index).rm):
        assert dspy.Retrieve(k=2)("read a file").passages == expected


def test_it_is_a_tool(index: FastLaneIndex) -> None:
    tool = dspy.Tool(FastLaneRetriever(index, k=1), name="search")
    assert "query" in tool.args
    assert tool(query="read a file").indices == [index.search("read a file", 1)[0].id]


def test_arguments_that_cannot_be_are_errors(index: FastLaneIndex) -> None:
    with pytest.raises(ValueError, match="index must be a FastLaneIndex"):
        FastLaneRetriever("my-index")
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        FastLaneRetriever(index, k=0)
    with pytest.raises(ValueError, match="query 0 is empty"):
        FastLaneRetriever(index)("")
    with pytest.raises(TypeError, match="got 'top_k'"):
        FastLaneRetriever(index)("json", top_k=3)
