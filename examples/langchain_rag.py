"""RAG with LangChain over Python's own documentation; the language model only quotes.

    pip install -e '.[cpu,offline,langchain]'
    python examples/langchain_rag.py "How do I escape user input before showing it on a web page?"

The first run indexes the documentation, in some minutes.
Put a chat model in place of `quote` for real answers.
"""

from __future__ import annotations

import sys

from langchain_core.documents import Document
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.demo.index import demo_index
from fastlane_st.demo.python_docs import DEMO_QUESTIONS
from fastlane_st.integrations.langchain import FastLaneReranker, FastLaneRetriever

SEPARATOR = "\n\n-----\n\n"
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer from these passages:\n\n{passages}"), ("human", "{question}")]
)


def build_chain(index: FastLaneIndex) -> Runnable[str, str]:
    """One route finds 20 passages, full MaxSim keeps 3, the model answers from them."""
    retriever = FastLaneRetriever(index=index, k=20, windows=True)
    reranker = FastLaneReranker(encoder=index.encoder, top_n=3)

    def find(question: str) -> str:
        best = reranker.compress_documents(retriever.invoke(question), question)
        return SEPARATOR.join(map(cited, best))

    passages = {"passages": RunnableLambda(find), "question": RunnablePassthrough()}
    return passages | PROMPT | RunnableLambda(quote)


def cited(document: Document) -> str:
    """A passage with its id, so that an answer can name its source."""
    return f"[{document.id}] {document.page_content}"


def quote(prompt: PromptValue) -> str:
    """Stands in for a language model: gives the first passage of the prompt back."""
    passages = str(prompt.to_messages()[0].content).split("\n\n", 1)[1]
    return passages.split(SEPARATOR)[0]


if __name__ == "__main__":
    questions = sys.argv[1:] or DEMO_QUESTIONS
    chain = build_chain(demo_index(FastLaneEncoder("fastlane-minilm")))
    for question in questions:
        print(f"{question}\n\n{chain.invoke(question)}\n")
