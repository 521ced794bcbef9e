"""The example apps answer with the best passage by full MaxSim; DSPy's ranks an index's documents again."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex
from tests.conftest import DOCUMENTS

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = "how do i sort a list of number ?"


@pytest.fixture
def index(encoder: FastLaneEncoder) -> FastLaneIndex:
    return FastLaneIndex.build(encoder, DOCUMENTS, [f"doc-{n}" for n in range(6)], num_routes=None)


def best(index: FastLaneIndex) -> str:
    [hit] = index.search(QUESTION, 1, num_routes=None)
    assert hit.text is not None
    return hit.text


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


def ask_langchain(index: FastLaneIndex) -> str:
    answer: str = load("langchain_rag")["build_chain"](index).invoke(QUESTION)
    cited, _, quoted = answer.partition("] ")
    assert cited.startswith("[doc-")
    return quoted


def ask_llama_index(index: FastLaneIndex) -> str:
    answer = load("llama_index_rag")["build_engine"](index).query(QUESTION)
    assert len(answer.source_nodes) == 3
    return str(answer).split("\n\n")[0]


def ask_haystack(index: FastLaneIndex) -> str:
    example = load("haystack_rag")
    answer: str = example["ask"](example["build_pipeline"](index), QUESTION)
    return answer


def ask_dspy(index: FastLaneIndex) -> str:
    import dspy

    example = load("dspy_rag")
    with dspy.context(lm=example["quoting_model"]()):
        found = example["Answer"](index)(question=QUESTION)
    assert found.sources[0] == index.search(QUESTION, 1, num_routes=None)[0].id
    answer: str = found.answer
    return answer


@pytest.mark.parametrize(
    ("module", "ask"),
    [
        ("langchain_core", ask_langchain),
        ("llama_index.core", ask_llama_index),
        ("haystack", ask_haystack),
        ("dspy", ask_dspy),
    ],
)
def test_the_example_quotes_the_best_passage(
    index: FastLaneIndex, module: str, ask: Callable[[FastLaneIndex], str]
) -> None:
    pytest.importorskip(module)
    assert ask(index) == best(index)
