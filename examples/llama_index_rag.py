"""RAG with LlamaIndex over Python's own documentation; the language model only quotes.

    pip install -e '.[cpu,offline,llama-index]'
    python examples/llama_index_rag.py "How do I escape user input before showing it on a web page?"

The first run indexes the documentation, in some minutes.
Put another `llm` in place of `Quoting` for real answers.
"""

from __future__ import annotations

import sys
from typing import Any

from llama_index.core.base.llms.types import (
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.query_engine import RetrieverQueryEngine

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.demo.index import demo_index
from fastlane_st.demo.python_docs import DEMO_QUESTIONS
from fastlane_st.integrations.llama_index import FastLaneRerank, FastLaneRetriever


class Quoting(CustomLLM):
    """Stands in for a language model: gives the passages of the prompt back."""

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks of every model."""
        return LLMMetadata(model_name="quoting")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """What stands between the rules of LlamaIndex's prompt."""
        return CompletionResponse(text=prompt.split("---------------------\n")[1].strip())

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """The same, at once."""
        yield self.complete(prompt)


def build_engine(index: FastLaneIndex) -> RetrieverQueryEngine:
    """One route finds 20 passages, full MaxSim keeps 3, the model answers from them."""
    assert index.encoder is not None
    return RetrieverQueryEngine.from_args(
        FastLaneRetriever(index, similarity_top_k=20, windows=True),
        llm=Quoting(),
        node_postprocessors=[FastLaneRerank(index.encoder, top_n=3)],
    )


if __name__ == "__main__":
    questions = sys.argv[1:] or DEMO_QUESTIONS
    engine = build_engine(demo_index(FastLaneEncoder("fastlane-minilm")))
    for question in questions:
        answer = engine.query(question)
        sources = ", ".join(source.node.node_id for source in answer.source_nodes)
        print(f"{question}\n\n{answer}\n\nfrom {sources}\n")
