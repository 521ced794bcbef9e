"""The configuration of a FastLane checkpoint: everything that its weights depend on."""

# No `from __future__ import annotations` here: `strict` checks types, not their names.

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .routing_fastlane import AskedRoutes, NumRoutes, Task, check_num_routes


@strict
class FastLaneConfig(PreTrainedConfig):
    """Configuration of a `FastLaneModel`.

    Args:
        backbone_config: Configuration of the encoder (BERT, ModernBERT, XLM-R …), or its dict with a
            `model_type`. Without one, transformers' default BERT.
        embedding_dim: Dimension D of a token embedding.
        route_context_weight: `ViewProjection`'s c_r.
        window_context_weight: Its c_w.
        document_context_weight: Its c_d; with all three at 0 the model is ColBERT.
        window_size: Standard deviation, in tokens, of the window that c_w weighs.
        query_length_power: How much more a query's token of a longer state weighs in the mean of a route
            (see `length_weights`).
        document_length_power: The same in the context of a document's tokens; 0 weighs all alike.
        router_dim: Width of the router's self-attention layer.
        router_num_heads: Attention heads of the router; they divide `router_dim`.
        num_route_layers: Transformer layers that shift a query's route views (see `RouteLayers`); 0
            for none.
        query_num_routes: Default number of routes of a query: a positive integer, or None for every
            token.
        document_num_routes: Default number of views that a document's tokens are pooled to; a float in
            (0, 1] is that fraction of them (see `pool_tokens`), None keeps every token.
        query_length: Longest query in tokens, special tokens included; longer ones are cut.
        document_length: Longest document in tokens.
        query_prompt: Text put before every query, such as E5's `"query: "`.
        document_prompt: Text put before every document.
        special_token_ids: Ids of the tokens that frame a text ([CLS], [SEP], padding). They are no
            views: neither routed nor part of full late interaction.
        use_special_tokens: Whether those tokens (never padding) are views like any other.
        query_skip_ids: Ids of further tokens that are no views of a query.
        document_skip_ids: Ids of further tokens that are no views of a document, such as punctuation
            (ColBERT's skip list).
        query_expansion: ColBERT's expansion of queries by mask tokens that are views, in the form of
            Sentence Transformers' `query_expansion`: `length` in tokens, `strategy` ("fixed" cuts there,
            "min" doesn't), `attend` and `token`. None for no expansion.
        base_model: Hub name of the backbone, for the model card.

    Raises:
        ValueError: A number of routes, a length or a dimension is out of range.
        StrictDataclassFieldValidationError: A value is of another type than its field.
    """

    model_type = "fastlane"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    embedding_dim: int = 128
    route_context_weight: float | int = 4.0
    window_context_weight: float | int = 1.0
    document_context_weight: float | int = 1.0
    window_size: float | int = 6.0
    query_length_power: float | int = 2.0
    document_length_power: float | int = 1.0
    router_dim: int = 128
    router_num_heads: int = 4
    num_route_layers: int = 0
    query_num_routes: "int | None" = None  # as strings: validate_num_routes says more than `strict`
    document_num_routes: "int | float | None" = None
    query_length: int = 128
    document_length: int = 256
    query_prompt: str = ""
    document_prompt: str = ""
    special_token_ids: list[int] = field(default_factory=list)
    use_special_tokens: bool = False
    query_skip_ids: list[int] = field(default_factory=list)
    document_skip_ids: list[int] = field(default_factory=list)
    query_expansion: dict[str, Any] | None = None
    base_model: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = AutoConfig.for_model("bert")
        elif isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        self.special_token_ids = sorted(self.special_token_ids)
        # `strict` runs these afterwards too, but what they raise there is no ValueError any more.
        self.validate_sizes()
        self.validate_num_routes()
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Checks dimensions, lengths and the settings of routing that have a range."""
        for name in (
            "embedding_dim",
            "router_dim",
            "router_num_heads",
            "query_length",
            "document_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.window_size <= 0:
            raise ValueError(f"window_size must be above 0, got {self.window_size}")
        if self.num_route_layers < 0:
            raise ValueError(f"num_route_layers must be at least 0, got {self.num_route_layers}")
        if self.router_dim % self.router_num_heads:
            raise ValueError(
                f"router_dim must be a multiple of router_num_heads, got {self.router_dim} and "
                f"{self.router_num_heads}"
            )

    def validate_num_routes(self) -> None:
        """Checks the default numbers of routes; only a document's may be a fraction."""
        check_num_routes(self.query_num_routes)
        check_num_routes(self.document_num_routes, allow_fraction=True)

    def resolve_num_routes(self, task: Task, num_routes: AskedRoutes) -> NumRoutes:
        """The number of routes that a call asks for, checked, with the default of its side filled in.

        Raises:
            ValueError: It isn't what `AskedRoutes` allows for that side.
        """
        if num_routes == "default":
            return self.query_num_routes if task == "query" else self.document_num_routes
        check_num_routes(num_routes, allow_fraction=task == "document")
        return num_routes

    @property
    def view_settings(self) -> dict[str, float]:
        """What the vectors of a text depend on beside the weights and the tokens."""
        names = (
            "route_context_weight",
            "window_context_weight",
            "document_context_weight",
            "window_size",
            "query_length_power",
            "document_length_power",
        )
        return {name: float(getattr(self, name)) for name in names}

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's token states."""
        backbone_config: Any = self.backbone_config
        return int(backbone_config.hidden_size)

    def get_text_config(
        self, decoder: bool | None = None, encoder: bool | None = None
    ) -> PreTrainedConfig:
        """The backbone's configuration: where other tools look for the sizes of vocabulary and layers."""
        assert isinstance(self.backbone_config, PreTrainedConfig)
        return self.backbone_config

    def to_dict(self) -> dict[str, Any]:
        """The configuration as saved, with the references by which the Hub finds our classes."""
        settings = super().to_dict()
        settings["backbone_config"].pop("_name_or_path", None)  # a path of this machine
        settings.pop("code_revision", None)  # it described the code that the folder was loaded with
        settings["auto_map"] = {
            "AutoConfig": "configuration_fastlane.FastLaneConfig",
            "AutoModel": "modeling_fastlane.FastLaneModel",
        }
        return settings
