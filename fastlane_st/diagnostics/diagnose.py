"""What a router chooses on a judged collection, and how good the choice is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection, read_collection
from ..evaluation.scored_query import score_queries
from ..evaluation.scoring import encode_documents, encode_queries
from .choices import RouterChoices, summarise_choices
from .collapse import Alarm, find_alarms
from .routed_query import RankCorrelation, RoutedQuery, mean_rank_correlation, routed_query
from .token_kinds import KINDS

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder


@dataclass(frozen=True)
class RouterDiagnostics(RouterChoices):
    """What a router chooses as its one route on a collection, and how good that is.

    All but `ndcg` is over the queries with two or more views.

    Attributes:
        collection: Name and split.
        num_queries: Number of judged queries, which `ndcg` is the mean of.
        oracle_agreement: Share of routes with the best nDCG@10 that any token of the query has as
            its one route.
        oracle_agreement_by_chance: The expected share of a random choice.
        rank_correlation: Of logits with usefulness, or None where no query has both.
        ndcg: Mean nDCG@10 of one route by `router`, at `random`, by the `oracle`, and of all views,
            each token for itself (`full`).
        examples: A few queries, spread over the collection.
    """

    collection: str
    num_queries: int
    oracle_agreement: float
    oracle_agreement_by_chance: float
    rank_correlation: RankCorrelation | None
    ndcg: Mapping[str, float]
    examples: tuple[RoutedQuery, ...]

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The failures that these numbers show, by the thresholds of `CollapseThresholds`."""
        return find_alarms(self)

    def to_dict(self) -> dict[str, Any]:
        """The diagnostics and their alarms as JSON holds them."""
        found = asdict(self)
        for example, routed in zip(found["examples"], self.examples, strict=True):
            example["route"] = routed.route
            for name in ("logits", "margins", "view_ndcg"):
                values = example[name]
                example[name] = None if values is None else values.round(4).tolist()
        alarms = [asdict(alarm) for alarm in self.alarms]
        return {"collection": self.collection, **found, "alarms": alarms}

    def render(self) -> str:
        """The diagnostics as lines for a terminal, alarms last."""
        ndcg = ", ".join(f"{name} {value:.3f}" for name, value in self.ndcg.items())
        kinds = ", ".join(
            f"{kind.replace('_', ' ')} {self.kinds[kind]:.0%} "
            f"(at random {self.kinds_by_chance[kind]:.0%})"
            for kind in KINDS
        )
        correlation = "no query tells"
        if self.rank_correlation is not None:
            found = self.rank_correlation
            correlation = (
                f"{found.mean:.3f} (95 % interval {found.low:.3f} to {found.high:.3f}, "
                f"{found.num_queries} queries)"
            )
        lines = [
            f"{self.collection}: {self.num_queries} queries, {self.num_choices} with a choice",
            f"nDCG@10 of one route: {ndcg}",
            f"entropy of the choice: {self.entropy:.2f} nats, {self.normalised_entropy:.2f} of a "
            "uniform one's",
            f"routes by kind: {kinds}",
            f"routes on the first view {self.first_share:.0%}, on the last {self.last_share:.0%}; "
            f"most often view {self.common_position.value} ({self.common_position.share:.0%})",
            f"most frequent token: {self.common_token.value!r} ({self.common_token.share:.0%})",
            f"as good as the oracle: {self.oracle_agreement:.0%} "
            f"(at random {self.oracle_agreement_by_chance:.0%})",
            f"rank correlation of logits with usefulness: {correlation}",
        ]
        alarms = [f"ALARM {alarm.name}: {alarm.reason}" for alarm in self.alarms]
        return "\n".join([*lines, *(alarms or ["no alarm"])])


def run_diagnose(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    limit_queries: int | None = None,
    limit_documents: int | None = None,
    batch_size: int = 32,
    show_progress: bool = False,
) -> RouterDiagnostics:
    """Diagnoses the router of a checkpoint on a BEIR folder; views are stored in float16."""
    from ..encoder import FastLaneEncoder

    collection = read_collection(data, split).limit(limit_queries, limit_documents)
    encoder = FastLaneEncoder(checkpoint)
    return diagnose(
        encoder,
        collection,
        batch_size=batch_size,
        dtype=np.float16,
        show_progress=show_progress,
    )


def diagnose(
    encoder: FastLaneEncoder,
    collection: Collection,
    *,
    num_examples: int = 8,
    batch_size: int = 32,
    dtype: npt.DTypeLike = np.float32,
    show_progress: bool = False,
) -> RouterDiagnostics:
    """Encodes a collection, keeps its views as `dtype`, and diagnoses the one route of each query.

    Raises:
        ValueError: No query has two views, so that there is nothing to choose.
    """
    queries = encode_queries(
        encoder,
        list(collection.queries.values()),
        num_routes=(1,),
        batch_size=batch_size,
        show_progress=show_progress,
    )
    documents = encode_documents(
        encoder,
        list(collection.documents.values()),
        batch_size=batch_size,
        dtype=dtype,
        show_progress=show_progress,
    )
    scored = score_queries(collection, queries, documents)
    texts = collection.queries.values()
    routed = [routed_query(encoder, *pair) for pair in zip(texts, scored, strict=True)]
    return summarise(f"{collection.name}:{collection.split}", routed, num_examples)


def summarise(
    name: str, queries: Sequence[RoutedQuery], num_examples: int = 8
) -> RouterDiagnostics:
    """Summarises routed queries of the collection `name`; see `diagnose`."""
    choices = [query for query in queries if len(query.logits) > 1]
    if not choices:
        raise ValueError(f"{name}: no query has two views, so that there is nothing to choose")
    step = max(1, len(choices) // max(1, num_examples))
    return RouterDiagnostics(
        **vars(summarise_choices(choices)),
        collection=name,
        num_queries=len(queries),
        oracle_agreement=_mean(
            query.view_ndcg[query.route] == query.view_ndcg.max() for query in choices
        ),
        oracle_agreement_by_chance=_mean(
            np.mean(query.view_ndcg == query.view_ndcg.max()) for query in choices
        ),
        rank_correlation=mean_rank_correlation(
            (query.logits, query.margins) for query in choices if query.margins is not None
        ),
        ndcg={
            "router": _mean(query.view_ndcg[query.route] for query in queries),
            "random": _mean(query.view_ndcg.mean() for query in queries),
            "oracle": _mean(query.view_ndcg.max() for query in queries),
            "full": _mean(query.full_ndcg for query in queries),
        },
        examples=tuple(choices[::step][:num_examples]),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
