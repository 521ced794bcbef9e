"""FastLaneModel: backbone, router and projection, put together in one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel
from transformers import initialization as init

from .configuration_fastlane import FastLaneConfig
from .encoding_fastlane import TextEncodingModel
from .output_fastlane import FastLaneOutput
from .projection_fastlane import ViewProjection
from .router_fastlane import RouteLayers, TokenRouter
from .routing_fastlane import Task


class FastLaneModel(TextEncodingModel):
    """A late-interaction encoder whose router picks the few token views that a text needs.

    Its base classes hold what is no part of the forward pass: encoding and routing of texts
    (`TextEncodingModel`), checkpoint folders (`CheckpointModel`), adapters (`AdaptableModel`).

    Example::

        model = AutoModel.from_pretrained("…/fastlane", trust_remote_code=True)
        queries = model.encode_query(["how do I parse JSON?"], num_routes=1)
        documents = model.encode_document(["json.loads reads a str."])
        model.similarity(queries, documents)  # (1, 1)
    """

    config_class = FastLaneConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # unused weights, which DistributedDataParallel refuses
        self.projection = ViewProjection(config)
        self.router = TokenRouter(config)
        self.route_layers = RouteLayers(config) if config.num_route_layers else None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        task: Task = "query",
        query_expansion_positions: Tensor | None = None,
        **backbone_kwargs: Any,
    ) -> FastLaneOutput:
        """Encodes tokenised texts; nothing is routed yet (see `route`).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 0 at padding. Without it, every token counts.
            task: The side, which decides the router's scorer and the context of a token.
            query_expansion_positions: (B, T) bool, true at tokens that `query_expansion` added: they are
                views, attended to or not.
            **backbone_kwargs: For the backbone, such as `token_type_ids`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        backbone_kwargs["return_dict"] = True
        states = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, **backbone_kwargs
        )
        hidden = states.last_hidden_state
        token_mask = self.token_mask(input_ids, attention_mask, task)
        if query_expansion_positions is not None:
            token_mask = token_mask | query_expansion_positions.bool()
        seen = attention_mask.bool() | token_mask
        output = self.score_tokens(hidden, seen, token_mask, task)
        output.hidden_states = states.get("hidden_states")
        output.attentions = states.get("attentions")
        return output

    def score_tokens(
        self, hidden_states: Tensor, attention_mask: Tensor, token_mask: Tensor, task: Task
    ) -> FastLaneOutput:
        """All of the forward pass that comes after the backbone.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            attention_mask: (B, T), 0 at what the router and the route layers don't see.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            task: The side.
        """
        router_logits, salience = self.router(hidden_states, attention_mask, token_mask, task)
        shifts = None
        if task == "query" and self.route_layers is not None:
            shifts = self.route_layers(hidden_states, attention_mask)
        return FastLaneOutput(
            token_embeddings=self.projection(hidden_states, token_mask, salience, task),
            router_logits=router_logits,
            salience=salience,
            token_mask=token_mask,
            route_shifts=shifts,
            last_hidden_state=hidden_states,
        )

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; the configuration of the backbone is told as well, or nothing loads again."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.backbone.config.vocab_size = (
            embeddings.num_embeddings
        )  # which is config.backbone_config
        return embeddings

    def token_mask(self, input_ids: Tensor, attention_mask: Tensor, task: Task) -> Tensor:
        """(B, T) bool: the tokens that are views of the text (see `FastLaneOutput.token_mask`)."""
        present = attention_mask.bool()
        config = self.config
        skipped = config.query_skip_ids if task == "query" else config.document_skip_ids
        if not config.use_special_tokens:
            skipped = [*skipped, *config.special_token_ids]
        if not skipped:
            return present
        content = present & ~torch.isin(input_ids, torch.tensor(skipped, device=input_ids.device))
        return content | (present & ~content.any(dim=-1, keepdim=True))

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, RouteLayers):  # untrained, they change no route
            init.zeros_(module.output)
