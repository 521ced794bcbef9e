"""The configuration of a FastLane checkpoint: everything its weights depend on."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from .routing_fastlane import check_num_routes


class FastLaneConfig(PretrainedConfig):
    """Configuration of a `FastLaneModel`.

    Args:
        backbone_config: Configuration of the encoder (BERT, ModernBERT, XLM-R …), or its dict with a
            `model_type`. Without one, transformers' default BERT.
        embedding_dim: Dimension D of a token embedding.
        route_context_weight: What a new model starts with of `ViewProjection`'s c_r.
        window_context_weight: The same of c_w.
        document_context_weight: The same of c_d; with all three at 0 it is ColBERT.
        window_size: Standard deviation, in tokens, of the window that c_w weighs.
        route_spread: How far a token's logit falls next to one that is routed before it (see
            `spread_out`); 0 lets the best tokens be routed however alike they are.
        route_margin: With `num_routes="auto"` a query also keeps the routes whose logits are so close
            to its first one's: the more certain the router, the fewer.
        route_budget: And at most so many, where a call doesn't say.
        router_dim: Width of the router's self-attention layer.
        router_num_heads: Attention heads of the router; they divide `router_dim`.
        separate_document_scorer: Whether documents are routed by a scorer of their own. Otherwise
            they are routed by the queries' scorer.
        query_num_routes: Routes a query keeps where a call doesn't say: a positive integer, or None
            for every token.
        document_num_routes: The same for a document; a float in (0, 1] keeps that fraction.
        query_length: Longest query in tokens, special tokens included; what is beyond is cut.
        document_length: The same for a document.
        query_prompt: Text put before every query, such as E5's `"query: "`.
        document_prompt: The same for a document.
        special_token_ids: Ids of the tokens that frame a text ([CLS], [SEP], padding). They carry
            no view of their own: neither routed nor part of full late interaction.
        use_special_tokens: Count those tokens (never padding) as views like any other.
        base_model: Hub name of the backbone, for the model card.

    Raises:
        ValueError: A number of routes, a length or a dimension is out of range.
    """

    model_type = "fastlane"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        backbone_config: dict[str, Any] | PretrainedConfig | None = None,
        embedding_dim: int = 128,
        route_context_weight: float = 4.0,
        window_context_weight: float = 1.0,
        document_context_weight: float = 1.0,
        window_size: float = 6.0,
        route_spread: float = 3.0,
        route_margin: float = 2.0,
        route_budget: int = 4,
        router_dim: int = 128,
        router_num_heads: int = 4,
        separate_document_scorer: bool = True,
        query_num_routes: int | None = None,
        document_num_routes: int | float | None = None,
        query_length: int = 128,
        document_length: int = 256,
        query_prompt: str = "",
        document_prompt: str = "",
        special_token_ids: list[int] | None = None,
        use_special_tokens: bool = False,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> None:
        if backbone_config is None:
            backbone_config = AutoConfig.for_model("bert")
        elif isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        sizes = {
            "embedding_dim": embedding_dim,
            "route_budget": route_budget,
            "router_dim": router_dim,
            "router_num_heads": router_num_heads,
            "query_length": query_length,
            "document_length": document_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if window_size <= 0 or route_spread < 0 or route_margin < 0:
            raise ValueError(
                "window_size must be above 0, route_spread and route_margin at least 0, got "
                f"{window_size}, {route_spread} and {route_margin}"
            )
        if router_dim % router_num_heads:
            raise ValueError(
                f"router_dim must be a multiple of router_num_heads, got {router_dim} and "
                f"{router_num_heads}"
            )
        check_num_routes(query_num_routes)
        check_num_routes(document_num_routes, allow_fraction=True)

        self.backbone_config = backbone_config
        self.embedding_dim = embedding_dim
        self.route_context_weight = route_context_weight
        self.window_context_weight = window_context_weight
        self.document_context_weight = document_context_weight
        self.window_size = window_size
        self.route_spread = route_spread
        self.route_margin = route_margin
        self.route_budget = route_budget
        self.router_dim = router_dim
        self.router_num_heads = router_num_heads
        self.separate_document_scorer = separate_document_scorer
        self.query_num_routes = query_num_routes
        self.document_num_routes = document_num_routes
        self.query_length = query_length
        self.document_length = document_length
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.special_token_ids = sorted(special_token_ids or [])
        self.use_special_tokens = use_special_tokens
        self.base_model = base_model
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's token states."""
        return int(self.backbone_config.hidden_size)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as saved, with the references by which the Hub finds our classes."""
        settings = super().to_dict()
        settings["backbone_config"].pop("_name_or_path", None)  # a path of this machine
        settings["auto_map"] = {
            "AutoConfig": "configuration_fastlane.FastLaneConfig",
            "AutoModel": "modeling_fastlane.FastLaneModel",
        }
        return settings
