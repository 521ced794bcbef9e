"""The model for vLLM: vLLM's own backbone, and our head as its pooler. It relies on vLLM."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.pooler import PoolingParamsUpdate
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.model_executor.layers.pooler.tokwise import AllPool
from vllm.model_executor.models.bert import BertModel
from vllm.model_executor.models.interfaces_base import attn_type, default_pooling_type
from vllm.model_executor.models.modernbert import ModernBertModel
from vllm.model_executor.models.roberta import RobertaEmbedding
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.pooling_params import PoolingParams
from vllm.v1.pool.metadata import PoolingMetadata

from ..modeling.configuration_fastlane import FastLaneConfig
from .head import Asked, FastLaneHead

BACKBONES = {
    "bert": BertModel,
    "modernbert": ModernBertModel,
    "roberta": partial(BertModel, embedding_class=RobertaEmbedding),
    "xlm-roberta": partial(BertModel, embedding_class=RobertaEmbedding),
}
"""vLLM's encoders by `model_type`."""


@attn_type("encoder_only")
@default_pooling_type(seq_pooling_type="CLS", tok_pooling_type="ALL")  # CLS marks an encoder
class FastLaneForTokenEmbedding(nn.Module):
    """A FastLane checkpoint for vLLM's task `token_embed`; see `FastLaneHead.pool` for what it gives.

    Raises:
        ValueError: vLLM has no such backbone here, or the checkpoint expands its queries.
    """

    is_pooling_model = True
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            f"{part}.": f"pooler.head.{part}." for part in ("projection", "router", "route_layers")
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config: FastLaneConfig = vllm_config.model_config.hf_config
        check_served(self.config)
        backbone_config: Any = self.config.backbone_config
        self.backbone = BACKBONES[backbone_config.model_type](
            vllm_config=vllm_config.with_hf_config(backbone_config),
            prefix=maybe_prefix(prefix, "backbone"),
        )
        head = FastLaneHead(self.config).to(vllm_config.model_config.head_dtype)
        self.pooler = FastLanePooler(head)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.backbone.embed_input_ids(input_ids)
        return embedded

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """(tokens, H) float, the states of all tokens of a batch, one text after the other."""
        states: Tensor = self.backbone(
            input_ids=input_ids,
            positions=positions,
            intermediate_tensors=intermediate_tensors,
            inputs_embeds=inputs_embeds,
        )
        return states

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads a checkpoint's tensors; gives the names that were found here."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(
            weights, mapper=self.hf_to_vllm_mapper
        )
        return loaded


class FastLanePooler(Pooler):
    """Runs the head over the texts of a batch, each by itself."""

    def __init__(self, head: FastLaneHead) -> None:
        super().__init__()
        self.pooling = AllPool()
        self.head = head

    def get_supported_tasks(self) -> set[str]:
        return {"token_embed"}

    def get_pooling_updates(self, task: str) -> PoolingParamsUpdate:
        return PoolingParamsUpdate(requires_token_ids=True)  # which tell special tokens

    def forward(
        self, hidden_states: Tensor, pooling_metadata: PoolingMetadata
    ) -> list[Tensor | None]:
        """One tensor a text; None where the engine hasn't yet run all of its tokens."""
        texts = zip(
            self.pooling(hidden_states, pooling_metadata),
            pooling_metadata.get_prompt_token_ids_cpu(),
            pooling_metadata.pooling_params,
            strict=True,
        )
        return [
            None if states is None else self.head.pool(states, ids, asked_of(params))
            for states, ids, params in texts
        ]


def asked_of(params: PoolingParams) -> Asked:
    """What the parameters of a request ask; all views of a side where vLLM scores by MaxSim."""
    scoring = params.late_interaction_params
    if scoring is not None:
        is_query = scoring.mode == "cache_query"
        return {"side": "query" if is_query else "document", "num_routes": None}
    return cast(Asked, params.extra_kwargs or {})


def check_served(config: FastLaneConfig) -> None:
    """Raises a ValueError for a checkpoint that can't be served."""
    backbone_config: Any = config.backbone_config
    if backbone_config.model_type not in BACKBONES:
        raise ValueError(
            f"the backbone must be one of {', '.join(BACKBONES)} to run in vLLM, got "
            f"{backbone_config.model_type}: serve it by 'fastlane serve'"
        )
    if config.query_expansion is not None:
        raise ValueError(
            "a checkpoint with query expansion can't run in vLLM, which attends to every token: serve it "
            "by 'fastlane serve'"
        )
