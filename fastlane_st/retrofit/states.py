"""The token states of queries: computed once, since the backbone stays as it is while routes are trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..files import replace_file
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import FastLaneOutput


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
    encoded = model.forward_batches(ordered, "query", batch_size, show_progress_bar, max_routes=0)
    for features, output in encoded:
        seen = features["attention_mask"].bool() | output.token_mask
        for row, mask in enumerate(seen):
            states = output.last_hidden_state[row][mask].half()
            found[next(places)] = QueryStates(states, output.token_mask[row][mask])
    return [found[number] for number in range(len(texts))]


def write_states(path: Path, states: Sequence[QueryStates]) -> None:
    """Writes states to a file that `read_states` reads."""
    tensors = {
        "states": torch.cat([one.states for one in states]),
        "is_view": torch.cat([one.is_view for one in states]),
        "counts": torch.tensor([len(one.is_view) for one in states]),
    }
    replace_file(path, lambda scratch: save_file(tensors, scratch))


def read_states(path: Path) -> list[QueryStates]:
    """The states in a file, in their order."""
    tensors = load_file(path)
    counts = tensors["counts"].tolist()
    parts = zip(tensors["states"].split(counts), tensors["is_view"].split(counts), strict=True)
    return [QueryStates(*one) for one in parts]


def score_queries(model: FastLaneModel, queries: Sequence[QueryStates]) -> FastLaneOutput:
    """What the model's forward pass gives for queries whose states are known."""
    states = pad_sequence([query.states.float() for query in queries], batch_first=True)
    is_view = pad_sequence([query.is_view for query in queries], batch_first=True)
    lengths = torch.tensor([len(query.is_view) for query in queries])
    seen = torch.arange(states.shape[1]) < lengths[:, None]
    return model.score_tokens(states, seen, is_view, "query")
