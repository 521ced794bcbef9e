"""Baselines for a routed model: BM25, one dense vector per text, MaxSim of an untrained backbone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from ..data.collection import Collection
from .metrics import Ranking, top_documents
from .routes import rank_by_maxsim
from .scoring import BlockStore, Floats

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_Encoded: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""The unit token states of a text, (T, hidden_size), and their unit mean, (hidden_size,)."""
_TEXTS = 512


def rank_by_bm25(collection: Collection) -> list[Ranking]:
    """Ranks by BM25 as `bm25s` 0.3 computes it by default: Lucene's variant, k1 1.5, b 0.75.

    English stop words are dropped, words aren't stemmed. A document that shares no word with a query isn't
    retrieved.

    Raises:
        ImportError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError('BM25 needs bm25s: pip install "fastlane-st[eval]"') from error
    tokenize = {"stopwords": "en", "show_progress": False}
    retriever = bm25s.BM25()
    documents = bm25s.tokenize(list(collection.documents.values()), **tokenize)
    retriever.index(documents, show_progress=False)
    rankings = []
    for text in collection.queries.values():
        [words] = bm25s.tokenize([text], return_ids=False, **tokenize)
        scores = retriever.get_scores(words) if words else np.zeros(len(collection.documents))
        rankings.append(top_documents(np.where(scores > 0, scores, -np.inf)))
    return rankings


def rank_by_vectors(queries: Floats, documents: Floats) -> list[Ranking]:
    """Ranks by the inner product of query vectors (Q, D) with document vectors (N, D)."""
    return [top_documents(documents @ query) for query in queries]


def rank_by_dense_encoder(
    collection: Collection, encoder: SentenceTransformer, batch_size: int = 32
) -> list[Ranking]:
    """Ranks by the cosine of one vector per text, with the encoder's own prompts and lengths."""
    queries = encoder.encode_query(
        list(collection.queries.values()), batch_size=batch_size, normalize_embeddings=True
    )
    documents = encoder.encode_document(
        list(collection.documents.values()), batch_size=batch_size, normalize_embeddings=True
    )
    return rank_by_vectors(queries, documents)


class Backbone:
    """A pretrained encoder as it is, without our projection, router or training.

    Args:
        folder: Checkpoint folder or Hub name.
        query_length: Longest query in tokens.
        document_length: Longest document in tokens.
        query_prompt: Text put before every query.
        document_prompt: Text put before every document.
        device: Device of the model.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        query_length: int,
        document_length: int,
        query_prompt: str = "",
        document_prompt: str = "",
        device: str = "cpu",
    ) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lengths = {"query": query_length, "document": document_length}
        self.prompts = {"query": query_prompt, "document": document_prompt}

    def rank(
        self,
        collection: Collection,
        *,
        batch_size: int = 32,
        dtype: npt.DTypeLike = np.float32,
        show_progress: bool = False,
    ) -> dict[str, list[Ranking]]:
        """Ranks a collection in two ways from one encoding, both by cosine.

        `dense_backbone` compares the means of token states, special tokens included, as Sentence
        Transformers pools. `maxsim_backbone` is MaxSim over the token states at full width, special tokens
        included as in ColBERT; punctuation isn't masked.

        Args:
            collection: The queries and documents.
            batch_size: Texts per forward pass.
            dtype: Storage type of the token states.
            show_progress: Whether to show a progress bar.
        """
        document_means: list[npt.NDArray[np.float32]] = []
        store = BlockStore(dtype)
        texts = list(collection.documents.values())
        for states, mean in self._encode(texts, "document", batch_size, show_progress):
            document_means.append(mean)
            store.add(states)
        queries = list(
            self._encode(list(collection.queries.values()), "query", batch_size, show_progress)
        )
        return {
            "dense_backbone": rank_by_vectors(
                np.stack([mean for _, mean in queries]), np.stack(document_means)
            ),
            "maxsim_backbone": rank_by_maxsim([states for states, _ in queries], store.documents()),
        }

    @torch.inference_mode()
    def _encode(
        self, texts: Sequence[str], task: str, batch_size: int, show: bool
    ) -> Iterator[_Encoded]:
        """Yields each text's unit token states and their unit mean; batches hold similar lengths."""
        for start in tqdm(range(0, len(texts), _TEXTS), f"backbone, {task}", disable=not show):
            chunk = [self.prompts[task] + text for text in texts[start : start + _TEXTS]]
            order = sorted(range(len(chunk)), key=lambda place: -len(chunk[place]))
            encoded: list[_Encoded | None] = [None] * len(chunk)
            for first in range(0, len(chunk), batch_size):
                places = order[first : first + batch_size]
                batch = self._encode_batch([chunk[place] for place in places], self.lengths[task])
                for place, one in zip(places, batch, strict=True):
                    encoded[place] = one
            yield from filter(None, encoded)

    def _encode_batch(self, texts: list[str], max_length: int) -> Iterator[_Encoded]:
        features = self.tokenizer(
            texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(self.model.device)
        states: Tensor = self.model(**features).last_hidden_state.float()
        mask = features["attention_mask"].bool()
        means = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        means = torch.nn.functional.normalize(means, dim=-1)
        states = torch.nn.functional.normalize(states, dim=-1)
        for row, mean, kept in zip(states, means, mask, strict=True):
            yield row[kept].cpu().numpy(), mean.cpu().numpy()
