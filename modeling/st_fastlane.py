"""The Sentence Transformers module: a FastLaneModel as the one module of a MultiVectorEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Transformer
from torch import Tensor

from .routing_fastlane import AskedRoutes, Task, gumbel_top_k_gate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .modeling_fastlane import FastLaneModel, FastLaneOutput


class FastLaneTransformer(Transformer):
    """Gives the routed token embeddings of a text.

    Call `encode_query(texts, num_routes=…)` and `encode_document(texts, num_routes=…)` of the
    `MultiVectorEncoder` around it; what `num_routes` means stands at `FastLaneModel.route`. In
    evaluation `token_embeddings` are the views that `route` gives and `attention_mask` is narrowed
    to the kept ones; `router_logits` and `input_ids` stay whole, so `output_value=None` shows them
    all. In training a text is routed by the Gumbel gate: its embeddings are multiplied by the gate.
    A query's mask stays whole, since the router learns from the views that it didn't choose as
    well; a document's is narrowed, or a view of zeros could be the best of the document.
    `unrouted_embeddings`, `routed_embeddings` (before that product), `gate` and `token_mask` are
    there for losses of our own. Inputs without a task count as documents, as elsewhere in the library.
    """

    forward_kwargs: set[str] = {"task", "num_routes", "route_budget"}  # noqa: RUF012
    model: FastLaneModel
    temperature: float = 1.0
    """Of the training gate; an evaluation pass doesn't read it."""
    noise: bool = True
    """Whether the training gate draws Gumbel noise, or takes the router's top k."""

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        kwargs["modality_config"] = {
            "text": {"method": "forward", "method_output_name": "token_embeddings"}
        }
        kwargs["module_output_name"] = "token_embeddings"
        kwargs["unpad_inputs"] = False  # the router attends within a text, not across a flat batch
        super().__init__(model_name_or_path, **kwargs)
        if self.query_length is None:
            self.query_length = self.config.query_length
        if self.document_length is None:
            self.document_length = self.config.document_length
        assert self.tokenizer is not None
        self.model.tokenizer = self.tokenizer
        self.model.code_folders = (Path(__file__).parent,)
        self._prompts: dict[str, str | None] = {}

    def _load_model(self, *args: Any, **model_kwargs: Any) -> PreTrainedModel:
        # The module loads the tokenizer itself.
        return super()._load_model(*args, load_tokenizer=False, **model_kwargs)

    @property
    def max_seq_length(self) -> int:
        """Longest document in tokens. Setting it sets the longest query, too."""
        return self.document_length or self.config.document_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.query_length = self.document_length = value

    def get_embedding_dimension(self) -> int:
        """Dimension D of a token embedding."""
        return int(self.config.embedding_dim)

    def preprocess(  # type: ignore[override]  # processing_kwargs pass through by keyword
        self, inputs: Any, prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenises texts, cut at the side's length."""
        kwargs["task"] = kwargs.get("task") or "document"
        features: dict[str, Any] = super().preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def forward(  # type: ignore[override]  # the keywords that forward_kwargs lists
        self,
        features: dict[str, Any],
        task: Task | None = None,
        num_routes: AskedRoutes = "default",
        route_budget: int | None = None,
    ) -> dict[str, Any]:
        """Encodes and routes; see the class for what the features hold afterwards."""
        side: Task = task or features.get("task") or "document"
        accepted = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
        inputs = {name: features[name] for name in accepted if name in features}
        output = self.model(**inputs, task=side)
        features["router_logits"] = output.router_logits
        resolved = self.model.resolve_num_routes(side, num_routes)
        if self.training and resolved is not None:
            if resolved == "auto":
                raise ValueError('num_routes="auto" is for evaluation: training takes a number')
            features |= self._gated(output, side, resolved)
        else:
            views, kept = self.model.route(output, side, resolved, route_budget)
            features["token_embeddings"], features["attention_mask"] = views, kept
            if side == "query":  # for a search that ranks again by all tokens
                features["unrouted_embeddings"] = output.token_embeddings
                features["token_mask"] = output.token_mask
        return features

    def _gated(
        self, output: FastLaneOutput, task: Task, num_routes: int | float
    ) -> dict[str, Tensor]:
        """What training sees; see the class."""
        mask = output.token_mask
        logits = self.model.spread_logits(output, num_routes)
        gate = gumbel_top_k_gate(logits, mask, num_routes, self.temperature, self.noise)
        routes = gate.detach() > 0.5
        views = self.model.routed_views(output, task, routes)
        return {
            "token_embeddings": views * gate.unsqueeze(-1),
            "attention_mask": mask if task == "query" else routes,
            "token_mask": mask,
            "unrouted_embeddings": output.token_embeddings,
            "routed_embeddings": views,
            "gate": gate,
        }

    def on_model_ready(self, model: Any) -> None:
        """Gives the encoder our prompts where it has none, and remembers where to find its own."""
        for task in ("query", "document"):
            if model.prompts.get(task) is None:
                model.prompts[task] = getattr(self.config, f"{task}_prompt")
        self._prompts = model.prompts

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Saves the whole checkpoint folder, with the settings of today in its configuration."""
        config = self.config
        config.query_length, config.document_length = self.query_length, self.document_length
        for task in ("query", "document"):
            if task in self._prompts:
                setattr(config, f"{task}_prompt", self._prompts[task] or "")
        super().save(output_path, *args, **kwargs)

    def get_config_dict(self) -> dict[str, Any]:
        """The module's settings; lengths stand in the model's own configuration."""
        settings = super().get_config_dict()
        own = ("query_length", "document_length", "unpad_inputs")
        return {key: value for key, value in settings.items() if key not in own}
