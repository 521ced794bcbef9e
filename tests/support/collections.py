"""Small judged collections."""

from __future__ import annotations

from collections.abc import Mapping

from fastlane_st.data.collection import Collection


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
