"""What an adapter gains and forgets, measured by made queries that it wasn't trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection
from ..data.rows import CorpusDocument
from ..evaluation.evaluate import search_all
from ..evaluation.metrics import PairedDifference, in_order, paired_difference
from ..evaluation.scoring import BlockStore
from .pairs import MadePair

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder

QUERIES = 200
RANKED = 1_000
"""Documents that are ranked for each query."""
VIEWS: Mapping[str, int | None] = {"one route": 1, "all views": None}
Values: TypeAlias = dict[str, npt.NDArray[np.float64]]
"""nDCG@10 of each query, by the views that it had."""


def hold_out(
    pairs: Sequence[MadePair], documents: Sequence[CorpusDocument], name: str, seed: int
) -> Collection:
    """Makes a collection of one query for each of up to `QUERIES` documents, a fifth of all at most.

    A query's document stands there without the query; others, up to `RANKED`, stand there whole but for
    their titles.
    """
    chance = random.Random(seed)
    first: dict[int, MadePair] = {}
    for pair in pairs:
        first.setdefault(pair.document, pair)
    drawn = chance.sample(sorted(first), min(QUERIES, len(documents) // 5, len(first)))
    others = chance.sample(range(len(documents)), min(RANKED, len(documents)))
    texts = {number: first[number].positive for number in drawn}
    for number in others:
        if len(texts) < RANKED and documents[number].text.strip():
            texts.setdefault(number, documents[number].text)
    return Collection(
        name=name,
        split="made",
        documents={str(number): text for number, text in texts.items()},
        queries={str(number): first[number].query for number in drawn},
        qrels={str(number): {str(number): 1} for number in drawn},
    )


def measure(
    encoder: FastLaneEncoder, collection: Collection, batch_size: int, show_progress_bar: bool
) -> Values:
    """Ranks a collection's documents for each of its queries: nDCG@10, of which one is relevant."""
    store = BlockStore(np.float32)
    for views in encoder.encode_document(
        list(collection.documents.values()),
        num_routes=None,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
    ):
        store.add(views.float().cpu().numpy())
    documents = store.documents()
    return {
        name: np.array(
            [
                _reciprocal_log_rank(scores, query)
                for query, scores in search_all(
                    encoder, documents, collection, views, batch_size
                ).items()
            ]
        )
        for name, views in VIEWS.items()
    }


def _reciprocal_log_rank(scores: Mapping[str, float], own: str) -> float:
    best = [document for document, _ in in_order(scores)[:10]]
    return float(1 / np.log2(2 + best.index(own))) if own in best else 0.0


@dataclass(frozen=True)
class Measured:
    """nDCG@10 of one collection with one kind of views, before and after, and the difference."""

    before: float
    after: float
    difference: PairedDifference

    @classmethod
    def of(cls, before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Measured:
        return cls(float(before.mean()), float(after.mean()), paired_difference(after, before))


@dataclass(frozen=True)
class AdaptReport:
    """What a run made, took, gained and forgot.

    Attributes:
        num_documents: Documents that pairs were made of.
        num_pairs: By kind: "title", "heading", "crop"; those that were trained on.
        gained: Over held-out documents of the collection, by views: "one route", "all views".
        forgotten: The same over the other collection.
        other: The name of that.
        seconds: By phase.
    """

    num_documents: int
    num_pairs: Mapping[str, int]
    gained: Mapping[str, Measured]
    forgotten: Mapping[str, Measured]
    other: str
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> str:
        """Gives a table for the terminal, and a line that says whether to use the adapter."""
        made = ", ".join(f"{count:,} of {kind}s" for kind, count in self.num_pairs.items())
        lines = [
            f"{self.num_documents:,} documents; pairs trained on: {made}",
            "",
            f"{'nDCG@10 of held-out queries':32} {'before':>8} {'after':>8}  difference (95 % interval)",
        ]
        for where, found in (("this collection", self.gained), (self.other, self.forgotten)):
            for views, one in found.items():
                moved = one.difference
                lines.append(
                    f"{where + ', ' + views:32} {one.before:8.3f} {one.after:8.3f}  "
                    f"{moved.mean:+.3f} ({moved.low:+.3f} to {moved.high:+.3f})"
                )
        minutes = sum(self.seconds.values()) / 60
        return "\n".join([*lines, "", f"{self.verdict()} {minutes:.0f} minutes."])

    def verdict(self) -> str:
        """Says in a sentence whether one route gained beyond chance."""
        moved = self.gained["one route"].difference
        if moved.low > 0:
            return "One route gained on documents that it wasn't trained on."
        if moved.high < 0:
            return "One route lost: don't use this adapter."
        return "One route gained nothing beyond chance: the checkpoint alone is as good."
