"""What routes keep of a model's own MaxSim, measured on queries that were held out of training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..evaluation.scoring import BlockStore, best_similarities
from ..modeling.modeling_fastlane import FastLaneModel
from .queries import TrainingQuery
from .states import QueryStates, score_queries
from .vectors import TokenVectors

NUM_ROUTES = (1, 2, 4)
RERANKED = 100


@dataclass(frozen=True)
class RouteQuality:
    """One ranking, against the ranking by MaxSim.

    Attributes:
        overlap: Mean share of MaxSim's ten best documents among the ten best.
        reciprocal_rank: Mean of 1 / rank of the query's own document, 0 beyond the tenth: MRR@10.
    """

    overlap: float
    reciprocal_rank: float


@dataclass(frozen=True)
class RetrofitReport:
    """Quality before and after, over the same documents and held-out queries.

    Attributes:
        num_documents: Documents that were ranked.
        num_queries: Queries that were held out.
        query_kind: "labelled", or "made" of the documents.
        before: By ranking: "all views", "1 route" and so on, "1 route, reranked".
        after: The same.
        seconds: By phase of the run.
        peak_memory: Of the process, in bytes.
        losses: Means over 50 steps each: the step, the loss and its parts.
    """

    num_documents: int
    num_queries: int
    query_kind: str
    before: Mapping[str, RouteQuality]
    after: Mapping[str, RouteQuality]
    seconds: Mapping[str, float]
    peak_memory: int
    losses: Sequence[Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> str:
        """Gives a table for the terminal."""
        lines = [
            f"{self.num_queries:,} held-out queries ({self.query_kind}), "
            f"{self.num_documents:,} documents",
            "",
            f"{'':20} {'overlap@10 with MaxSim':>24} {'MRR@10':>18}",
            f"{'':20} {'before':>12}{'after':>12} {'before':>9}{'after':>9}",
        ]
        for name, after in self.after.items():
            before = self.before[name]
            lines.append(
                f"{name:20} {before.overlap:12.3f}{after.overlap:12.3f} "
                f"{before.reciprocal_rank:9.3f}{after.reciprocal_rank:9.3f}"
            )
        phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return "\n".join([*lines, "", f"{phases}; peak memory {self.peak_memory / 1e9:.1f} GB"])


class HeldOut:
    """Queries that were held out of training, and the documents to rank for them.

    MaxSim over all views ranks alike before training and after, so that it is computed once.

    Args:
        model: Encodes queries from their states.
        queries: Their own documents are among `documents`.
        states: Of the queries.
        vectors: Of all documents.
        documents: Numbers of those to rank, in order.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: FastLaneModel,
        queries: Sequence[TrainingQuery],
        states: Sequence[QueryStates],
        vectors: TokenVectors,
        documents: Sequence[int],
    ) -> None:
        store = BlockStore(np.float16)
        for number in documents:
            store.add(vectors[number])
        self._documents = store.documents()
        self.states = states
        self.own = np.searchsorted(np.asarray(documents), [query.document for query in queries])
        output = score_queries(model, states)
        self.maxsim = self.scores(output.token_embeddings, output.token_mask)

    def scores(self, views: Tensor, mask: Tensor) -> npt.NDArray[np.float32]:
        """(queries, documents) float32: the sum over views (B, T, D) in the mask of max_j q·d_j."""
        rows = (row[kept].numpy() for row, kept in zip(views, mask, strict=True))
        return np.stack([best[-1].sum(axis=0) for best in best_similarities(rows, self._documents)])


@torch.inference_mode()
def measure_routes(model: FastLaneModel, held_out: HeldOut) -> dict[str, RouteQuality]:
    """Ranks documents for held-out queries by MaxSim over all views, and by fewer routes."""
    output = score_queries(model, held_out.states)
    scores = {"all views": held_out.maxsim}
    for count in NUM_ROUTES:
        views, routes = model.route(output, "query", count)
        scores[f"{count} route{'s' * (count > 1)}"] = held_out.scores(views, routes)
    scores["1 route, reranked"] = reranked(scores["1 route"], held_out.maxsim)
    best = top_ten(held_out.maxsim)
    return {name: compare(top_ten(each), best, held_out.own) for name, each in scores.items()}


def reranked(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Scores that rank the best `RERANKED` documents by `first` by `second`, and leave out others."""
    places = np.argsort(-first, axis=1, kind="stable")[:, :RERANKED]
    scores = np.full_like(second, -np.inf)
    np.put_along_axis(scores, places, np.take_along_axis(second, places, axis=1), axis=1)
    return scores


def top_ten(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """(queries, 10): places of the best documents, best first; equal scores in their order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def compare(
    found: npt.NDArray[np.int64], best: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> RouteQuality:
    """The quality of the ten documents found for each query, (queries, 10)."""
    overlaps = [len(set(one) & set(two)) / len(two) for one, two in zip(found, best, strict=True)]
    ranks = 1 + np.argmax(found == own[:, None], axis=1)
    reciprocal = np.where((found == own[:, None]).any(axis=1), 1 / ranks, 0.0)
    return RouteQuality(float(np.mean(overlaps)), float(reciprocal.mean()))


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the seconds of its block to those of a phase."""
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
