"""All of a FastLaneModel that comes after its backbone, which vLLM runs; it relies on no vLLM."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from ..modeling.configuration_fastlane import FastLaneConfig
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import ViewProjection
from ..modeling.router_fastlane import RouteLayers, TokenRouter
from ..modeling.routing_fastlane import NumRoutes, Task


class Asked(TypedDict, total=False):
    """What a request asks of one text, as it travels in vLLM's `PoolingParams.extra_kwargs`."""

    side: Task
    """"query" by default."""
    num_routes: NumRoutes
    """As for `FastLaneModel.route`, with defaults filled in. If missing, nothing is routed."""


class FastLaneHead(FastLaneModel):
    """A `FastLaneModel` without its backbone: it tokenises, scores token states, and routes."""

    def __init__(self, config: FastLaneConfig) -> None:
        super(FastLaneModel, self).__init__(config)
        self.projection = ViewProjection(config)
        self.router = TokenRouter(config)
        self.route_layers = RouteLayers(config) if config.num_route_layers else None

    @torch.no_grad()
    def pool(self, hidden_states: Tensor, input_ids: Tensor, asked: Asked) -> Tensor:
        """What one text is answered with.

        Args:
            hidden_states: (T, H) float, the backbone's token states; computed with in the head's dtype.
            input_ids: (T,) int64.
            asked: The side and, for routed vectors, their number.

        Returns:
            With `num_routes` the text's vectors (K, D), as `FastLaneEncoder.encode` gives them. Without,
            (T, D + 1): the view of each token in the columns :D, unrouted, and in column D its router
            logit, 0 for a document, which has none. Rows of special tokens are there, and no views.
        """
        side = asked.get("side", "query")
        ids, states = input_ids.to(hidden_states.device)[None], hidden_states.to(self.dtype)[None]
        present = torch.ones_like(ids, dtype=torch.bool)
        output = self.score_tokens(states, present, self.token_mask(ids, present, side), side)
        if "num_routes" in asked:
            views, kept = self.route(output, side, asked["num_routes"])
            return views[kept]
        views, logits = output.token_embeddings, output.router_logits
        if logits is None:
            logits = torch.zeros_like(views[..., 0])
        return torch.cat([views, logits.unsqueeze(-1)], dim=-1)[0]
