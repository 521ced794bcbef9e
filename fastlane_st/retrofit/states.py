"""The token states of queries: computed once, since the backbone stays as it is while routes are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.output_fastlane import FastLaneOutput


class QueryStates(NamedTuple):
    """One query: token states (T, H) in float16, and which tokens are views, (T,) bool."""

    states: Tensor
    is_view: Tensor


@torch.inference_mode()
def query_states(
    model: FastLaneModel, texts: Sequence[str], batch_size: int, show_progress_bar: bool = False
) -> list[QueryStates]:
    """The states of each query's tokens, without padding, in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    ordered = [texts[number] for number in order]
    found: dict[int, QueryStates] = {}
    places = iter(order)
    for features, output in model.forward_batches(ordered, "query", batch_size, show_progress_bar):
        seen = features["attention_mask"].bool() | output.token_mask
        for row, mask in enumerate(seen):
            states = output.last_hidden_state[row][mask].half()
            found[next(places)] = QueryStates(states, output.token_mask[row][mask])
    return [found[number] for number in range(len(texts))]


def score_queries(model: FastLaneModel, queries: Sequence[QueryStates]) -> FastLaneOutput:
    """What the model's forward pass gives for queries whose states are known."""
    states = pad_sequence([query.states.float() for query in queries], batch_first=True)
    is_view = pad_sequence([query.is_view for query in queries], batch_first=True)
    lengths = torch.tensor([len(query.is_view) for query in queries])
    seen = torch.arange(states.shape[1]) < lengths[:, None]
    return model.score_tokens(states, seen, is_view, "query")
