"""FastLaneOutput: what one forward pass gives, and what routing works on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class FastLaneOutput(ModelOutput):
    """The tensors of a batch of texts; nothing is routed yet (see `FastLaneModel.route`).

    Attributes:
        token_embeddings: (B, T, D) float of unit length, padding included: the views of a text that
            keeps every token, in their context (see `ViewProjection`).
        router_logits: (B, T) float; the highest one's token is the first route (see `spread_out`). None
            for documents, which are pooled (see `pool_tokens`).
        salience: (B, T) float: a token's weight in a mean over several, as a logit.
        token_mask: (B, T) bool, true at the tokens that are views of the text and may be routed. A
            text of special tokens alone (an empty one) keeps those, so that no row is empty.
        route_shifts: (B, T, D) float, what the route layers add to a route's view; None without them.
        last_hidden_state: (B, T, H) float, the backbone's token states.
        hidden_states: The backbone's, if asked for.
        attentions: The backbone's, if asked for.
    """

    token_embeddings: Tensor = None  # type: ignore[assignment]  # ModelOutput wants defaults
    router_logits: Tensor | None = None
    salience: Tensor = None  # type: ignore[assignment]
    token_mask: Tensor = None  # type: ignore[assignment]
    route_shifts: Tensor | None = None
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
