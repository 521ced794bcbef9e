"""An encoder that looks words up, so that scores can be worked out by hand."""

from __future__ import annotations

from typing import Any

import torch

# Each word's token vector and router logit. [CLS] and [SEP] stand around them and are never routed.
VOCABULARY = {
    "red": ([1.0, 0.0, 0.0], 1.0),
    "blue": ([-1.0, 0.0, 0.0], 2.0),
    "car": ([0.0, 1.0, 0.0], 4.0),
    "bus": ([0.0, 0.75, 0.5], 3.0),
    "sky": ([0.0, 0.0, 1.0], 5.0),
}


class WordEncoder:
    """Looks words up; routes by a fixed logit; its own default is every word."""

    def __init__(self, dim: int | None = 3) -> None:
        self.dim = dim
        self.calls: list[dict[str, Any]] = []

    def get_embedding_dimension(self) -> int | None:
        return self.dim

    def encode_query(self, texts: list[str], **options: Any) -> list[dict[str, torch.Tensor]]:
        return self._encode("query", texts, **options)

    def encode_document(self, texts: list[str], **options: Any) -> list[dict[str, torch.Tensor]]:
        return self._encode("document", texts, **options)

    def _encode(
        self,
        side: str,
        texts: list[str],
        output_value: None,
        num_routes: Any = None,
        **options: Any,
    ) -> list[dict[str, torch.Tensor]]:
        self.calls.append({"side": side, "texts": texts, "num_routes": num_routes, **options})
        longest = max(len(text.split()) for text in texts) + 2
        return [self._features(text.split(), num_routes, longest) for text in texts]

    def _features(self, words: list[str], num_routes: Any, length: int) -> dict[str, torch.Tensor]:
        vectors = torch.full((length, 3), 9.0)  # what is not routed must not be searched
        logits = torch.full((length,), -torch.inf)
        for position, word in enumerate(words, start=1):
            vectors[position] = torch.tensor(VOCABULARY[word][0])
            logits[position] = VOCABULARY[word][1]
        if isinstance(num_routes, float):
            num_routes = max(1, round(num_routes * len(words)))
        count = len(words) if num_routes is None else min(num_routes, len(words))
        mask = torch.zeros(length, dtype=torch.int64)
        mask[logits.topk(count).indices] = 1
        return {
            "token_embeddings": vectors,
            "attention_mask": mask,
            "router_logits": logits,
            "unrouted_embeddings": vectors / 2,  # other than routed: what ranks must be told apart
            "token_mask": logits > -torch.inf,
        }
