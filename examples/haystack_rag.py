"""RAG with Haystack over Python's own documentation; the language model only quotes.

    pip install -e '.[cpu,offline,haystack]'
    python examples/haystack_rag.py "How do I escape user input before showing it on a web page?"

The first run indexes the documentation, in some minutes.
Put a generator in place of `Quoting` for real answers.
"""

from __future__ import annotations

import sys
from typing import Any

from haystack import Pipeline, component
from haystack.components.builders import PromptBuilder

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.demo.index import demo_index
from fastlane_st.demo.python_docs import DEMO_QUESTIONS
from fastlane_st.integrations.haystack import (
    FastLaneDocumentStore,
    FastLaneRanker,
    FastLaneRetriever,
)

PROMPT = """Answer from these passages:
{% for document in documents %}
<passage id="{{ document.id }}">
{{ document.content }}
</passage>
{% endfor %}
Question: {{ question }}"""


@component
class Quoting:
    """Stands in for a generator: gives the first passage of the prompt back."""

    @component.output_types(replies=list[str])
    def run(self, prompt: str) -> dict[str, list[str]]:
        """The first passage."""
        return {"replies": [prompt.split("</passage>")[0].split(">\n", 1)[1].strip()]}


def build_pipeline(index: FastLaneIndex) -> Pipeline:
    """One route finds 20 passages, full MaxSim keeps 3, the model answers from them."""
    assert index.encoder is not None
    store = FastLaneDocumentStore(index=index)
    pipeline = Pipeline()
    pipeline.add_component("retriever", FastLaneRetriever(store, top_k=20, windows=True))
    pipeline.add_component("ranker", FastLaneRanker(index.encoder, top_k=3))
    builder = PromptBuilder(template=PROMPT, required_variables=["documents", "question"])
    pipeline.add_component("prompt", builder)
    pipeline.add_component("model", Quoting())
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "model.prompt")
    return pipeline


def ask(pipeline: Pipeline, question: str) -> str:
    """The answer to a question."""
    given: dict[str, Any] = {
        "retriever": {"query": question},
        "ranker": {"query": question},
        "prompt": {"question": question},
    }
    return str(pipeline.run(given)["model"]["replies"][0])


if __name__ == "__main__":
    questions = sys.argv[1:] or DEMO_QUESTIONS
    demo = build_pipeline(demo_index(FastLaneEncoder("fastlane-minilm")))
    for question in questions:
        print(f"{question}\n\n{ask(demo, question)}\n")
