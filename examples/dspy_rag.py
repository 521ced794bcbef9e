"""RAG with DSPy over Python's own documentation; the language model only quotes.

    pip install -e '.[cpu,offline,dspy]'
    python examples/dspy_rag.py "How do I escape user input before showing it on a web page?"

The first run indexes the documentation, in some minutes.
Put `dspy.LM("a model")` in place of `quoting_model()` for real answers.
"""

from __future__ import annotations

import json
import sys

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.demo.index import demo_index
from fastlane_st.demo.python_docs import DEMO_QUESTIONS
from fastlane_st.integrations.dspy import FastLaneRetriever


class Quoting:
    """Stands in for a language model: gives the first passage of the prompt back."""

    def complete(self, request: Request) -> Response:
        """An answer in the form that DSPy's adapters read."""
        _, _, given = str(request.messages[-1].text).partition("[[ ## passages ## ]]\n")
        passages = json.loads(given.partition("\n\n[[ ## question ## ]]")[0])
        text = f"[[ ## answer ## ]]\n{passages[0]}\n\n[[ ## completed ## ]]"
        return Response(
            id=None,
            model="quoting",
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


def quoting_model() -> dspy.LM:
    """A model that asks nobody."""
    return dspy.LM("quoting", engine=Quoting(), cache=False)


class Answer(dspy.Module):
    """One route finds 20 passages, full MaxSim keeps 3 of them, the model answers from these."""

    def __init__(self, index: FastLaneIndex) -> None:
        super().__init__()
        self.retrieve = FastLaneRetriever(index, k=3, rerank=20, windows=True)
        self.answer = dspy.Predict("passages: list[str], question: str -> answer: str")

    def forward(self, question: str) -> dspy.Prediction:
        """The answer to a question, with the ids of its sources."""
        found = self.retrieve(question)
        answer = self.answer(passages=found.passages, question=question).answer
        return dspy.Prediction(answer=answer, sources=found.indices)


if __name__ == "__main__":
    questions = sys.argv[1:] or DEMO_QUESTIONS
    module = Answer(demo_index(FastLaneEncoder("fastlane-minilm")))
    with dspy.context(lm=quoting_model()):
        for question in questions:
            found = module(question=question)
            print(f"{question}\n\n{found.answer}\n\nfrom {', '.join(map(str, found.sources))}\n")
