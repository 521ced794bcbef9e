"""Two queries and two documents along the axes of a plane, and an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder
from fastlane_st.losses.column_views import ColumnViews
from tests.support.losses import views


@pytest.fixture
def query() -> ColumnViews:
    """The first query sees both axes, the second one only the first axis; nothing is dropped."""
    axes = [[1.0, 0.0], [0.0, 1.0]]
    made = views([axes, axes], mask=[[1, 1], [1, 0]])
    made.routed, made.gate = made.embeddings, made.mask.float()
    return made


@pytest.fixture
def documents() -> ColumnViews:
    """The second document's one view points away from the first axis; nothing is dropped."""
    made = views([[[1.0, 0.0], [0.6, 0.8]], [[-1.0, 0.0], [0.0, -1.0]]], mask=[[1, 1], [1, 0]])
    made.routed, made.gate = made.embeddings, made.mask.float()
    return made


@pytest.fixture
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)
