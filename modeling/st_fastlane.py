"""The Sentence Transformers module: a FastLaneModel as the one module of a MultiVectorEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Transformer
from torch import Tensor

from .encoding_fastlane import EXPANDED, tokenize_starts
from .projection_fastlane import FastLaneOutput
from .routing_fastlane import AskedRoutes, Task
from .search_fastlane import check_counts, check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .modeling_fastlane import FastLaneModel


class FastLaneTransformer(Transformer):
    """Gives the routed token embeddings of a text.

    Call `encode_query(texts, num_routes=…)` and `encode_document(texts, num_routes=…)` of the
    `MultiVectorEncoder` around it; for `num_routes` see `FastLaneModel.route`. Inputs without a task
    count as documents, as elsewhere in Sentence Transformers.

    In evaluation `token_embeddings` are the views that `route` gives and `attention_mask` is true at
    the kept ones alone; a query's `router_logits` and `input_ids` stay whole, so `output_value=None`
    shows all.

    In training the Gumbel gate routes a query, and its embeddings are multiplied by the gate. Its mask
    stays whole, since the router also learns from the views that it did not choose. Losses of our own
    read `unrouted_embeddings`, `routed_embeddings` (before that product), `gate` and `token_mask`.
    Documents are pooled as in evaluation.
    """

    forward_kwargs: set[str] = {"task", "num_routes"}  # noqa: RUF012
    model: FastLaneModel
    temperature: float = 1.0
    """Temperature of the training gate; evaluation has no gate."""
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
        if self.query_expansion is None:
            self.query_expansion = self.config.query_expansion
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
        check_counts(max_seq_length=value)
        most = self.model.max_positions
        if most is not None and value > most:
            raise ValueError(
                f"max_seq_length must be at most the backbone's positions, {most}, got {value}"
            )
        self.query_length = self.document_length = value

    def get_embedding_dimension(self) -> int:
        """Dimension D of a token embedding."""
        return int(self.config.embedding_dim)

    def preprocess(  # type: ignore[override]  # processing_kwargs pass through by keyword
        self, inputs: Any, prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenises texts, cut at the side's length."""
        kwargs["task"] = kwargs.get("task") or "document"
        length = self.query_length if kwargs["task"] == "query" else self.document_length
        length = kwargs.get("max_length") or length
        tokenize = super().preprocess
        own = (self.processing_kwargs, kwargs.get("processing_kwargs"), self.query_expansion)

        def whole(texts: Any) -> dict[str, Any]:
            return tokenize(texts, prompt=prompt, **kwargs)

        with self.model.tokenizing:
            if not isinstance(inputs, list):
                return whole(inputs)
            check_unicode(inputs, "text")
            if any(own) or not length or not all(isinstance(text, str) for text in inputs):
                return whole(inputs)
            return tokenize_starts(self.model.tokenizer, inputs, length, whole)

    def forward(  # type: ignore[override]  # the keywords that forward_kwargs lists
        self,
        features: dict[str, Any],
        task: Task | None = None,
        num_routes: AskedRoutes = "default",
    ) -> dict[str, Any]:
        """Encodes and routes; see the class for what it puts into `features`."""
        side: Task = task or features.get("task") or "document"
        accepted = ("input_ids", "attention_mask", "token_type_ids", "position_ids", EXPANDED)
        inputs = {name: features[name] for name in accepted if name in features}
        is_trained = self.training and side == "query"
        most = None if is_trained else self.model.max_routes(side, num_routes)
        output = self.model(**inputs, task=side, return_dict=True, max_routes=most)
        if output.router_logits is not None:
            features["router_logits"] = output.router_logits
        if is_trained:
            count = self.model.config.resolve_num_routes(side, num_routes)
            if count is not None:
                features |= self._gated(output, int(count))
                return features
        views, kept = self.model.route(output, side, num_routes)
        features["token_embeddings"], features["attention_mask"] = views, kept
        if side == "query":  # for a search that ranks again by all tokens
            features["unrouted_embeddings"] = output.token_embeddings
            features["token_mask"] = output.token_mask
        return features

    def _gated(self, output: FastLaneOutput, num_routes: int) -> dict[str, Tensor]:
        """What training sees of queries; see the class."""
        views, gate = self.model.gate(output, num_routes, self.temperature, self.noise)
        return {
            "token_embeddings": views * gate.unsqueeze(-1),
            "attention_mask": output.token_mask,
            "token_mask": output.token_mask,
            "unrouted_embeddings": output.token_embeddings,
            "routed_embeddings": views,
            "gate": gate,
        }

    def on_model_ready(self, model: Any) -> None:
        """Gives the encoder our prompts where it has none, and remembers where its own are."""
        for task in ("query", "document"):
            if model.prompts.get(task) is None:
                model.prompts[task] = getattr(self.config, f"{task}_prompt")
        self._prompts = model.prompts

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Saves the whole checkpoint folder; its configuration gets the current lengths and prompts."""
        config = self.config
        config.query_length, config.document_length = self.query_length, self.document_length
        config.query_expansion = self.query_expansion
        for task in ("query", "document"):
            if task in self._prompts:
                setattr(config, f"{task}_prompt", self._prompts[task] or "")
        super().save(output_path, *args, **kwargs)

    def get_config_dict(self) -> dict[str, Any]:
        """The module's settings; lengths stand in the model's own configuration."""
        settings = super().get_config_dict()
        own = ("query_length", "document_length", "query_expansion", "unpad_inputs")
        return {key: value for key, value in settings.items() if key not in own}
