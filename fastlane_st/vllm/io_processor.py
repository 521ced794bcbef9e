"""The IO processor for vLLM: from texts, their side and `num_routes` to routed vectors. It relies on vLLM.

Request: `{"texts": [str, …], "side": "query" or "document", "num_routes": …}`, as `encode_query` and
`encode_document` take them. Reply: for each text a list of its vectors, each a list of D floats.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer
from vllm.config import VllmConfig
from vllm.outputs import PoolingRequestOutput
from vllm.plugins.io_processors.interface import IOProcessor
from vllm.pooling_params import PoolingParams

from .head import FastLaneHead
from .request import RouteRequest, parse_request


class FastLaneIOProcessor(IOProcessor):
    """Tokenises as `FastLaneModel` does, and tells the model what each text is asked.

    vLLM calls `pre_process` and then `merge_pooling_params` of one request in one go in one thread, and
    gives the second no request: it is kept between the two.
    """

    def __init__(self, vllm_config: VllmConfig, renderer: Any) -> None:
        super().__init__(vllm_config, renderer)
        checkpoint = vllm_config.model_config
        with torch.device("meta"):  # to tokenise needs no weights
            self.head = FastLaneHead(checkpoint.hf_config)
        self.head.tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer,
            revision=checkpoint.tokenizer_revision,
            config=checkpoint.hf_config,
        )
        self._current = threading.local()

    def parse_data(self, data: object) -> RouteRequest:
        """Checks a request; see `parse_request`."""
        return parse_request(data, self.head.config)

    def pre_process(
        self, prompt: RouteRequest, request_id: str | None = None, **kwargs: Any
    ) -> list[dict[str, list[int]]]:
        """The token ids of each text, with its side's prompt, cut at its side's length."""
        self._current.request = prompt
        features = self.head.tokenize(prompt.texts, prompt.side)
        rows = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
        return [{"prompt_token_ids": ids[present].tolist()} for ids, present in rows]

    def merge_pooling_params(self, params: PoolingParams | None = None) -> PoolingParams:
        """Parameters for the texts of the request that `pre_process` had last in this thread."""
        merged = PoolingParams() if params is None else params
        merged.task = "token_embed"
        merged.extra_kwargs = dict(self._current.request.asked)
        return merged

    def post_process(
        self,
        model_output: Sequence[PoolingRequestOutput],
        request_id: str | None = None,
        **kwargs: Any,
    ) -> list[list[list[float]]]:
        """The routed vectors of each text, which the model's pooler made."""
        return [output.outputs.data.tolist() for output in model_output]
