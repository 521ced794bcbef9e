"""From texts to routed token embeddings: tokenise, run the model, route; and search over the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .checkpoint_fastlane import CheckpointModel
from .projection_fastlane import FastLaneOutput, ViewProjection
from .routing_fastlane import AskedRoutes, Task, gumbel_top_k_gate, pool_tokens, top_k_mask
from .search_fastlane import ExactIndex, check_counts, check_unicode

CHARACTERS = 16  # a token, when a long text is cut before it is tokenised; English has 4 or 5

EXPANDED = "query_expansion_positions"


class TextEncodingModel(CheckpointModel):
    """The methods of `FastLaneModel` that take texts, or route what its forward pass gives."""

    projection: ViewProjection

    def get_embedding_dimension(self) -> int:
        """Dimension D of a token embedding."""
        return self.config.embedding_dim

    def route(
        self, output: FastLaneOutput, task: Task, num_routes: AskedRoutes
    ) -> tuple[Tensor, Tensor]:
        """Leaves fewer views: a query's routes, or a document's pooled tokens (`pool_tokens`).

        A query's routes are the top k of its logits, ties to the earlier token.

        Args:
            output: Of `forward`.
            task: The side, which decides the default and whether a fraction is allowed.
            num_routes: See `AskedRoutes`. A text with fewer tokens keeps them all.

        Returns:
            The views (B, T, D) float, which depend on what is kept (see `ViewProjection.routed`),
            and which of them are kept, (B, T) bool.
        """
        count = self.config.resolve_num_routes(task, num_routes)
        mask = output.token_mask
        if count is None:
            return output.token_embeddings, mask
        if task == "document":
            return pool_tokens(output.token_embeddings, mask, count)
        assert output.router_logits is not None
        routes = top_k_mask(output.router_logits, mask, int(count))
        return self.projection.routed(output, routes), routes

    def max_routes(self, task: Task, num_routes: AskedRoutes) -> int:
        """The `max_routes` of a forward pass whose output is given to `route`."""
        count = self.config.resolve_num_routes(task, num_routes) if task == "query" else None
        return 0 if count is None else int(count)

    def gate(
        self, output: FastLaneOutput, num_routes: int, temperature: float, noise: bool
    ) -> tuple[Tensor, Tensor]:
        """Routes queries as training does: `route` with the gate of `gumbel_top_k_gate`.

        Returns:
            The views (B, T, D) float, and the gate (B, T) float.
        """
        logits = output.router_logits
        assert logits is not None
        gate = gumbel_top_k_gate(logits, output.token_mask, num_routes, temperature, noise)
        return self.projection.routed(output, gate.detach() > 0.5), gate

    tokenizing = threading.RLock()  # reentrant: Sentence Transformers tokenises prompts within
    """Held while texts are tokenised: a tokenizer's length and padding are state that both sides set."""

    def encode_query(self, texts: str | Sequence[str], **kwargs: Any) -> Any:
        """Encodes queries; the arguments and the result are those of `encode`."""
        return self.encode(texts, task="query", **kwargs)

    def encode_document(self, texts: str | Sequence[str], **kwargs: Any) -> Any:
        """Encodes documents; the arguments and the result are those of `encode`."""
        return self.encode(texts, task="document", **kwargs)

    @torch.no_grad()  # FSDP refuses inference_mode
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: Task = "document",
        num_routes: AskedRoutes = "default",
        batch_size: int = 32,
        output_value: Literal["token_embeddings"] | None = "token_embeddings",
        convert_to_numpy: bool = False,
        show_progress_bar: bool = False,
    ) -> Any:
        """Encodes texts into their routed token embeddings, as `MultiVectorEncoder.encode` does.

        Args:
            texts: One text or several. Texts are cut at `query_length` or `document_length`.
            task: The side: its prompt, length and default number of routes.
            num_routes: As in `route`.
            batch_size: Texts in one forward pass, of which a CPU takes some at a time.
            output_value: `"token_embeddings"`, or None for everything.
            convert_to_numpy: Give float32 arrays instead of tensors on the model's device.
            show_progress_bar: Show one.

        Returns:
            For each text a (K, D) tensor or array of its kept views, in the order of the text. With
            `output_value=None` a dict of what `route` gives, `token_embeddings` (T, D) and
            `attention_mask` (T,), true at the kept views; `input_ids` (T,) and for queries
            `router_logits` (T,); and `unrouted_embeddings` (T, D) and `token_mask` (T,), what `route`
            gives if every token is kept. For a single str that one alone.
        """
        check_counts(batch_size=batch_size)
        if isinstance(texts, str):
            one = self.encode(
                [texts],
                task=task,
                num_routes=num_routes,
                batch_size=batch_size,
                output_value=output_value,
                convert_to_numpy=convert_to_numpy,
                show_progress_bar=show_progress_bar,
            )
            return one[0]
        self.eval()
        texts = list(texts)  # by place, also those of a pandas Series
        check_unicode(texts, "text")
        order = list(range(len(texts)))
        if len(texts) > batch_size:  # texts of like lengths in one batch: little padding
            order.sort(key=lambda index: -self.count_tokens(texts[index]))
        ordered = [texts[index] for index in order]
        encoded: list[Any] = [None] * len(texts)
        places = iter(order)
        most = self.max_routes(task, num_routes)
        for features, output in self.forward_batches(
            ordered, task, batch_size, show_progress_bar, most
        ):
            views, kept = self.route(output, task, num_routes)
            for row in range(len(kept)):
                place = next(places)
                if output_value is None:
                    encoded[place] = {
                        "token_embeddings": views[row],
                        "input_ids": features["input_ids"][row],
                        "attention_mask": kept[row],
                        "unrouted_embeddings": output.token_embeddings[row],
                        "token_mask": output.token_mask[row],
                    }
                    if output.router_logits is not None:
                        encoded[place]["router_logits"] = output.router_logits[row]
                    continue
                routed = views[row][kept[row]]
                encoded[place] = routed.float().cpu().numpy() if convert_to_numpy else routed
        return encoded

    def tokenize(self, texts: Sequence[str], task: Task) -> dict[str, Tensor]:
        """Tokenises texts with the side's prompt, cut at its length, into (B, T) tensors.

        With `query_expansion`, queries are filled up with its token; `query_expansion_positions` (B, T) is
        true there.
        """
        config, is_query = self.config, task == "query"
        prompt = config.query_prompt if is_query else config.document_prompt
        length = config.query_length if is_query else config.document_length
        expansion = config.query_expansion if is_query else None
        is_fixed = expansion is not None and expansion["strategy"] == "fixed"
        if expansion is not None:
            length = expansion["length"] if is_fixed else max(length, expansion["length"])
        padding = "max_length" if is_fixed else True

        def whole(texts: Sequence[str]) -> dict[str, Tensor]:
            options = {"padding": padding, "truncation": True, "max_length": length}
            return dict(self.tokenizer(list(texts), **options, return_tensors="pt"))

        with self.tokenizing:
            prompted = [prompt + text for text in texts]
            features = tokenize_starts(self.tokenizer, prompted, length, whole)
        return features if expansion is None else expand(features, expansion, self.tokenizer)

    def count_tokens(self, text: str) -> int:
        """The tokens of a text without its prompt, at most as many as a document may have."""
        check_unicode([text], "text")
        length = self.config.document_length
        with self.tokenizing:
            start = start_of(text, CHARACTERS * length)
            return len(self.tokenizer(start, truncation=True, max_length=length)["input_ids"])

    def forward_batches(
        self,
        texts: Sequence[str],
        task: Task,
        batch_size: int,
        show_progress_bar: bool,
        max_routes: int | None = None,
    ) -> Iterator[tuple[dict[str, Tensor], FastLaneOutput]]:
        """Tokenised batches of `texts` in their order, each with its forward pass."""
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, desc=f"Encoding ({task})", disable=not show_progress_bar):
            features = self.tokenize(texts[start : start + batch_size], task)
            features = {name: value.to(self.device) for name, value in features.items()}
            yield features, self(**features, task=task, return_dict=True, max_routes=max_routes)

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


def expand(
    features: dict[str, Tensor], expansion: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Fills queries that are shorter than an expansion's length with its token, as ColBERT does.

    Args:
        features: (B, T) tensors of the tokenizer, padded on the right.
        expansion: See `FastLaneConfig.query_expansion`.
        tokenizer: Its mask token is the default.

    Returns:
        The features with `query_expansion_positions`, (B, T) bool.
    """
    missing = expansion["length"] - features["input_ids"].shape[1]
    if missing > 0:
        features = {
            name: torch.nn.functional.pad(value, (0, missing)) for name, value in features.items()
        }
    input_ids, attention_mask = features["input_ids"], features["attention_mask"]
    within = torch.arange(input_ids.shape[1]) < expansion["length"]
    added = (attention_mask == 0) & within
    token = expansion.get("token")
    token_id: Any = (
        tokenizer.mask_token_id if token is None else tokenizer.convert_tokens_to_ids(token)
    )
    if token_id is None:
        token_id = tokenizer.eos_token_id
    features["input_ids"] = input_ids.masked_fill(added, token_id)
    if expansion.get("attend"):
        features["attention_mask"] = attention_mask.masked_fill(added, 1)
    return {**features, EXPANDED: added}


def tokenize_starts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    tokenize: Callable[[Sequence[str]], dict[str, Any]],
) -> dict[str, Any]:
    """Gives `tokenize(texts)` without tokenising what lies far beyond the first `max_length` tokens.

    Long texts are cut between words, after `CHARACTERS` a token. If one of them then has fewer tokens
    than it may have, as one of very long words does, all texts are tokenised whole after all.
    """
    starts = [start_of(text, CHARACTERS * max_length) for text in texts]
    pairs = zip(starts, texts, strict=True)
    is_cut = torch.tensor([len(start) < len(text) for start, text in pairs], dtype=torch.bool)
    if not is_cut.any() or not splits_at_spaces(tokenizer):
        return tokenize(texts)
    features = tokenize(starts)
    is_token = features["attention_mask"].bool()
    if EXPANDED in features:
        is_token = is_token & ~features[EXPANDED]
    is_full = is_token.sum(dim=1) >= max_length
    return features if bool(is_full[is_cut].all()) else tokenize(texts)


def start_of(text: str, length: int) -> str:
    """At most the first `length` characters, up to the end of a word; the text if there is no such end."""
    if len(text) <= length:
        return text
    end = max(text.rfind(space, 0, length) for space in " \n")
    return text[: max(end, 0)].rstrip() or text


def splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the words before a space have the same tokens whatever comes after it."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    own = tokenizer.get_added_vocab()  # a token may hold spaces, such as an added "New York"
    return tokenizer.backend_tokenizer.pre_tokenizer is not None and not any(
        len(token.split()) > 1 for token in own
    )
