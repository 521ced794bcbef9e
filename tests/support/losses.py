"""Columns of a batch for the losses: views that are written out, and texts as the collator has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastlane_st import FastLaneEncoder
from fastlane_st.losses.column_views import ColumnViews
from tests.conftest import DOCUMENTS, QUERIES

NOTHING = {"routed": 0.0, "full": 0.0, "distillation": 0.0, "teacher": 0.0, "oracle": 0.0}
"""The weights of `LossWeights` to start from when a test wants some parts alone."""


def views(
    embeddings: list[Any], mask: list[Any] | None = None, logits: list[Any] | None = None
) -> ColumnViews:
    vectors = torch.tensor(embeddings)
    shape = vectors.shape[:2]
    return ColumnViews(
        vectors,
        torch.tensor(mask, dtype=torch.bool) if mask else torch.ones(shape, dtype=torch.bool),
        torch.tensor(logits) if logits else torch.zeros(shape),
    )


def features(
    encoder: FastLaneEncoder, *, padding: int = 0, negatives: bool = False
) -> list[dict[str, Any]]:
    """The columns of a batch of four, as the collator gives them."""
    columns = [("query", QUERIES), ("document", DOCUMENTS[:4])]
    columns += [("document", DOCUMENTS[2:])] if negatives else []
    made = []
    for side, texts in columns:
        column: dict[str, Any] = encoder.preprocess(texts, task=side)
        for name, value in column.items():
            if isinstance(value, Tensor) and value.ndim == 2:
                fill = encoder.tokenizer.pad_token_id if name == "input_ids" else 0
                column[name] = torch.nn.functional.pad(value, (0, padding), value=fill)
        made.append({**column, "task": side})
    return made
