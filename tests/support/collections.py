"""Small judged collections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fastlane_st.data.collection import Collection
from tests.conftest import DOCUMENTS, QUERIES

QRELS = {
    "q0": {"d0": 2, "d1": 1},
    "q1": {"d1": 1, "d3": 0, "d2": 1},
    "q2": {"d2": 1},
    "q3": {"d4": 0},  # nothing relevant
}


def collection_of(
    qrels: Mapping[str, Mapping[str, int]], documents: str = "abcdefghijklmnop"
) -> Collection:
    return Collection(
        name="tiny",
        split="test",
        documents={id: f"text of {id}" for id in documents},
        queries={id: f"text of {id}" for id in qrels},
        qrels=qrels,
    )


def write_tiny_collection(folder: Path) -> Path:
    """A BEIR folder whose documents have titles, and no text twice."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{n}", "title": "python" if n % 2 else "", "text": text}
        for n, text in enumerate(DOCUMENTS)
    ]
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [
        f"{query}\t{document}\t{grade}"
        for query, judged in QRELS.items()
        for document, grade in judged.items()
    ]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return folder
