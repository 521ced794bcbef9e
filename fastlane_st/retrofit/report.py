"""What routes keep of a model's own MaxSim, measured on queries that were held out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..modeling.modeling_fastlane import FastLaneModel
from .queries import TrainingQuery
from .states import QueryStates, score_queries
from .vectors import TokenVectors

NUM_ROUTES = (1, 2, 4)
RERANKED = 100
CHUNK = 128


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


@torch.inference_mode()
def measure_routes(
    model: FastLaneModel,
    queries: Sequence[TrainingQuery],
    states: Sequence[QueryStates],
    vectors: TokenVectors,
    documents: Sequence[int],
) -> dict[str, RouteQuality]:
    """Ranks documents for queries by MaxSim over all views, and by fewer routes.

    Args:
        model: Encodes queries from their states.
        queries: Their own documents are among `documents`.
        states: Of the queries.
        vectors: Of all documents.
        documents: Numbers of those to rank, in order.
    """
    output = score_queries(model, states)
    kept: dict[str, tuple[Tensor, Tensor]] = {
        "all views": (output.token_embeddings, output.token_mask)
    }
    for count in NUM_ROUTES:
        kept[f"{count} route{'s' * (count > 1)}"] = model.route(output, "query", count)
    scores = {
        name: rank_scores(views, mask, vectors, documents) for name, (views, mask) in kept.items()
    }
    maxsim = scores["all views"]
    scores["1 route, reranked"] = reranked(scores["1 route"], maxsim)
    own = np.searchsorted(np.asarray(documents), [query.document for query in queries])
    best = top_ten(maxsim)
    return {name: compare(top_ten(each), best, own) for name, each in scores.items()}


def rank_scores(
    views: Tensor, mask: Tensor, vectors: TokenVectors, documents: Sequence[int]
) -> npt.NDArray[np.float32]:
    """(queries, documents) float32: the sum over a query's views (B, T, D) in the mask of max_j q·d_j."""
    rows = [row[kept] for row, kept in zip(views, mask, strict=True)]
    flat, counts = torch.cat(rows), torch.tensor([len(row) for row in rows])
    parts = []
    for start in range(0, len(documents), CHUNK):
        gathered, lengths = vectors.gather(documents[start : start + CHUNK])
        tokens = torch.from_numpy(gathered).float()
        best = torch.segment_reduce(
            tokens @ flat.T, "max", lengths=torch.from_numpy(lengths), axis=0, initial=-1e4
        )
        parts.append(torch.segment_reduce(best.T.contiguous(), "sum", lengths=counts, axis=0))
    scores: npt.NDArray[np.float32] = torch.cat(parts, dim=1).numpy()
    return scores


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
