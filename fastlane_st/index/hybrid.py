"""Hybrid search: an index's ranking fused with BM25's, for queries that hang on a rare word or a code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..modeling.search_fastlane import Hit, Id, check_counts, query_list
from .arguments import check_id_list
from .contents import Part
from .filters import Filter
from .index import FastLaneIndex

RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack et al., SIGIR 2009)."""


@dataclass(frozen=True)
class FusedHit:
    """A document found by one ranking or both.

    Attributes:
        id: The document's.
        score: The sum of `1 / (60 + rank)` over the rankings that found it, ranks from 1.
        text: The document's.
        hit: What the index found; None if only BM25 found the document.
        bm25_rank: From 1; None if BM25 didn't find it.
    """

    id: Id
    score: float
    text: str | None
    hit: Hit | None
    bm25_rank: int | None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        hit = None if self.hit is None else self.hit.to_dict()
        return {
            "id": self.id,
            "score": self.score,
            "text": self.text,
            "bm25_rank": self.bm25_rank,
            "hit": hit,
        }


class HybridSearch:
    """Searches an index and BM25 over its texts, and fuses the two by reciprocal ranks.

    Ranks can be fused where scores can't be compared (Cormack, Clarke and Büttcher, SIGIR 2009). BM25
    is that of the `bm25s` package, with its defaults and its English stop words; it is built at the
    first search, and anew at the first one after a change of the index.

    Args:
        index: An index of texts.
    """

    def __init__(self, index: FastLaneIndex) -> None:
        if not isinstance(index, FastLaneIndex):
            raise ValueError(f"index must be a FastLaneIndex, got {index!r:.60}")
        self.index = index
        self._bm25: tuple[tuple[Part, ...], WordIndex] | None = None

    def search(
        self,
        queries: str | Sequence[str],
        top_k: int = 10,
        *,
        depth: int = 100,
        where: Filter | None = None,
        ids: Iterable[Id] | None = None,
        **options: Any,
    ) -> list[list[FusedHit]]:
        """The `top_k` best documents for each query, best first.

        Args:
            queries: Texts; one str is one query, and still gives a list of one ranking.
            top_k: Documents for each.
            depth: How many of each ranking are fused, at least `top_k`.
            where: Find only documents with such metadata, as in `FastLaneIndex.search`.
            ids: Find only these documents.
            **options: Further ones of `FastLaneIndex.search`.

        Returns:
            Of equal scores, the document that the index ranks higher comes first, and then the one that
            BM25 does.

        Raises:
            ValueError: `depth` is below `top_k`, or what `FastLaneIndex.search` refuses.
            ImportError: bm25s is not installed.
        """
        check_counts(top_k=top_k, depth=depth)
        if depth < top_k:
            raise ValueError(f"depth must be at least top_k={top_k}, got {depth}")
        queries = query_list(queries)
        allowed = None if ids is None else check_id_list(ids)
        found = self.index.search(queries, depth, where=where, ids=allowed, **options)
        words = self._words()
        by_words = self._search_bm25(words, queries, depth, where, allowed)
        return [
            fuse(hits, ranked, words.texts, top_k)
            for hits, ranked in zip(found, by_words, strict=True)
        ]

    def _search_bm25(
        self,
        words: WordIndex,
        queries: Sequence[str],
        depth: int,
        where: Filter | None,
        ids: list[Id] | None,
    ) -> list[list[Id]]:
        known = list(words.texts)
        is_allowed = np.ones(len(known), dtype=bool)
        if where is not None or ids is not None:
            allowed = set(self.index.select(where, ids))
            is_allowed = np.array([id in allowed for id in known], dtype=bool)
        found = []
        for query in queries:
            scores = np.where(is_allowed, words.scores(query), 0)
            best = np.argsort(-scores, kind="stable")[:depth]
            found.append([known[number] for number in best.tolist() if scores[number] > 0])
        return found

    def _words(self) -> WordIndex:
        """BM25 over the index's texts; built again after a change."""
        parts = self.index.parts
        if self._bm25 is None or self._bm25[0] is not parts:
            self._bm25 = (parts, WordIndex(parts))
        return self._bm25[1]


class WordIndex:
    """BM25 over the texts of live documents.

    Attributes:
        texts: By id, in the order of the index.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        bm25s = import_bm25s()
        documents = [
            (place, stored.id, stored.text)
            for part in parts
            for place, stored in zip(
                part.segment.places[part.is_live].tolist(), part.stored(), strict=True
            )
        ]
        documents.sort(key=lambda document: document[0])
        self.texts = {id: text for _, id, text in documents if text}
        self._retriever = None
        tokens = bm25s.tokenize(list(self.texts.values()), stopwords="en", show_progress=False)
        if tokens.vocab:  # bm25s can't index nothing
            self._retriever = bm25s.BM25()
            self._retriever.index(tokens, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """(documents,) float32: BM25 of each of `texts`, 0 where no word is shared."""
        tokenize = import_bm25s().tokenize
        [words] = tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        if self._retriever is None or not words:
            return np.zeros(len(self.texts), dtype=np.float32)
        scores: npt.NDArray[np.float32] = self._retriever.get_scores(words)
        return scores


def fuse(
    hits: Sequence[Hit], by_words: Sequence[Id], texts: Mapping[Id, str], top_k: int
) -> list[FusedHit]:
    """The `top_k` best of two rankings by the sum of their reciprocal ranks.

    Args:
        hits: The index's ranking.
        by_words: BM25's.
        texts: Of the documents in the latter.
        top_k: How many.
    """
    found = {hit.id: (rank, hit) for rank, hit in enumerate(hits, 1)}
    words = {id: rank for rank, id in enumerate(by_words, 1)}
    fused = []
    for id in [*found, *(id for id in words if id not in found)]:
        rank, hit = found.get(id, (None, None))
        score = sum(1 / (RANK_CONSTANT + one) for one in (rank, words.get(id)) if one is not None)
        text = texts.get(id) if hit is None else hit.text
        fused.append(FusedHit(id, score, text, hit, words.get(id)))
    return sorted(fused, key=lambda one: -one.score)[:top_k]


def import_bm25s() -> Any:
    """The module `bm25s`, imported at first use; an ImportError says how to install it."""
    try:
        import bm25s
    except ImportError as error:
        raise ImportError('hybrid search needs bm25s: pip install "fastlane-st[eval]"') from error
    return bm25s
