"""Encoding of texts, similarity and indexing: what a FastLaneModel offers besides its forward."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .configuration_fastlane import FastLaneConfig
from .routing_fastlane import AskedRoutes, Task
from .search_fastlane import ExactIndex

if TYPE_CHECKING:
    from .modeling_fastlane import FastLaneOutput

HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")
"""Arguments of `from_pretrained` that say where a checkpoint's files are."""


class TextEncodingModel(PreTrainedModel):
    """The methods of `FastLaneModel` that take texts."""

    config: FastLaneConfig
    _tokenizer: PreTrainedTokenizerBase | None = None
    _hub_options: dict[str, Any] = {}  # noqa: RUF012  # how the checkpoint's other files are found

    @classmethod
    def from_pretrained(  # type: ignore[override]  # all but these pass through by keyword
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        load_tokenizer: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Loads a checkpoint as transformers does, with the tokenizer of the same revision.

        The tokenizer is read at once, so that the model encodes after the folder is gone or the
        working directory is another. Without `load_tokenizer` set `model.tokenizer` yourself.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        commit = getattr(model.config, "_commit_hash", None)  # where older transformers keep it
        if commit is not None:
            model._hub_options["revision"] = commit
        if load_tokenizer:
            with suppress(
                OSError
            ):  # a folder of weights alone; the tokenizer is missed when texts come
                model.tokenizer = model._load_tokenizer()
        return loaded

    def get_embedding_dimension(self) -> int:
        """Dimension D of a token embedding."""
        return self.config.embedding_dim

    def route(
        self,
        output: FastLaneOutput,
        task: Task,
        num_routes: AskedRoutes,
        route_budget: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chooses the token views to keep; see `FastLaneModel.route`."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the checkpoint that the model came from."""
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        # With the configuration at hand transformers doesn't look for it, nor ask to trust its code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            self.name_or_path, config=self.config, **self._hub_options
        )
        return tokenizer

    def encode_query(self, texts: str | Sequence[str], **kwargs: Any) -> Any:
        """Encodes queries; the arguments and the result are those of `encode`."""
        return self.encode(texts, task="query", **kwargs)

    def encode_document(self, texts: str | Sequence[str], **kwargs: Any) -> Any:
        """Encodes documents; the arguments and the result are those of `encode`."""
        return self.encode(texts, task="document", **kwargs)

    @torch.inference_mode()
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: Task = "document",
        num_routes: AskedRoutes = "default",
        route_budget: int | None = None,
        batch_size: int = 32,
        output_value: Literal["token_embeddings"] | None = "token_embeddings",
        convert_to_numpy: bool = False,
        show_progress_bar: bool = False,
    ) -> Any:
        """Encodes texts into their routed token embeddings, as `MultiVectorEncoder.encode` does.

        Args:
            texts: One text or several. What is beyond `query_length` or `document_length` is cut.
            task: The side: its prompt, length, scorer and default number of routes.
            num_routes, route_budget: As in `route`. A text with fewer tokens keeps them all.
            batch_size: Texts in one forward pass.
            output_value: `"token_embeddings"`, or None for everything.
            convert_to_numpy: Give float32 arrays instead of tensors on the model's device.
            show_progress_bar: Show one.

        Returns:
            For each text a (K, D) tensor or array of its kept views, in the order of the text. With
            `output_value=None` a dict of `token_embeddings` (T, D), `router_logits` (T,),
            `input_ids` (T,) and `attention_mask` (T,), the last true at the kept views; the others
            are what `route` says of them. Beside these `unrouted_embeddings` (T, D) and `token_mask` (T,)
            are what `num_routes=None` would give. For one text in place of a list, that alone.
        """
        if isinstance(texts, str):
            one = self.encode(
                [texts],
                task=task,
                num_routes=num_routes,
                route_budget=route_budget,
                batch_size=batch_size,
                output_value=output_value,
                convert_to_numpy=convert_to_numpy,
                show_progress_bar=show_progress_bar,
            )
            return one[0]
        self.eval()
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        ordered = [texts[index] for index in order]
        encoded: list[Any] = [None] * len(texts)
        places = iter(order)
        for features, output in self.forward_batches(ordered, task, batch_size, show_progress_bar):
            views, kept = self.route(output, task, num_routes, route_budget)
            for row in range(len(kept)):
                place = next(places)
                if output_value is None:
                    encoded[place] = {
                        "token_embeddings": views[row],
                        "router_logits": output.router_logits[row],
                        "input_ids": features["input_ids"][row],
                        "attention_mask": kept[row],
                        "unrouted_embeddings": output.token_embeddings[row],
                        "token_mask": output.token_mask[row],
                    }
                    continue
                routed = views[row][kept[row]]
                encoded[place] = routed.float().cpu().numpy() if convert_to_numpy else routed
        return encoded

    def tokenize(self, texts: Sequence[str], task: Task) -> dict[str, Tensor]:
        """Tokenised texts with the side's prompt, cut at its length, as (B, T) tensors."""
        is_query = task == "query"
        prompt = self.config.query_prompt if is_query else self.config.document_prompt
        return dict(
            self.tokenizer(
                [prompt + text for text in texts],
                padding=True,
                truncation=True,
                max_length=self.config.query_length if is_query else self.config.document_length,
                return_tensors="pt",
            )
        )

    def forward_batches(
        self, texts: Sequence[str], task: Task, batch_size: int, show_progress_bar: bool
    ) -> Iterator[tuple[dict[str, Tensor], FastLaneOutput]]:
        """Tokenised batches of `texts` in their order, each with its forward pass."""
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, desc=f"Encoding ({task})", disable=not show_progress_bar):
            features = self.tokenize(texts[start : start + batch_size], task)
            features = {name: value.to(self.device) for name, value in features.items()}
            yield features, self(**features, task=task)

    @staticmethod
    def similarity(queries: Sequence[Any], documents: Sequence[Any]) -> Tensor:
        """MaxSim of every query with every document: Σ_i max_j q_i·d_j (ColBERT).

        Args:
            queries: (K_i, D) tensor or array each, routed or not.
            documents: (T_j, D) tensor or array each, routed or not; no T_j is 0.

        Returns:
            (queries, documents) float32, on the documents' device.
        """
        queries = [torch.as_tensor(query) for query in queries]
        documents = [torch.as_tensor(document) for document in documents]
        lengths = torch.tensor([len(document) for document in documents])
        tokens = torch.cat(documents).float()
        owner = torch.arange(len(documents)).repeat_interleave(lengths).to(tokens.device)
        rows = []
        for query in queries:
            token_scores = query.float().to(tokens.device) @ tokens.T
            best = token_scores.new_full((len(query), len(documents)), -torch.inf)
            best.scatter_reduce_(1, owner.expand_as(token_scores), token_scores, "amax")
            rows.append(best.sum(dim=0))
        return torch.stack(rows)

    def build_index(
        self, documents: Iterable[str], ids: Iterable[str | int] | None = None, **kwargs: Any
    ) -> ExactIndex:
        """An `ExactIndex` over `documents`, in memory; the arguments are those of `ExactIndex.build`."""
        return ExactIndex.build(self, documents, ids, **kwargs)
