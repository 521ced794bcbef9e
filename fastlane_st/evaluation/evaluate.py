"""Evaluates a checkpoint on a judged collection: metrics, TREC runs, significance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.collection import Collection, read_collection
from .metrics import (
    DEPTH,
    METRICS,
    Metrics,
    PairedDifference,
    Run,
    check_pytrec_eval,
    evaluate_run,
    in_order,
    mean_metrics,
    paired_difference,
    top_documents,
)
from .routes import score_by_maxsim
from .scoring import BlockStore, DocumentViews

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder
    from ..index.arguments import QueryRoutes
    from ..index.encoding import DocumentRoutes
    from ..index.index import FastLaneIndex

ALL_ROUTES: tuple[QueryRoutes, ...] = (1, 2, 4, 8, None)
_TEXTS = 512


@dataclass(frozen=True)
class Evaluation:
    """Results of `run_evaluate`, by setting: the number of routes, or `all` for None.

    Attributes:
        collection: The judged queries and documents.
        checkpoint: Digest of the weights, see `encoder_digests`.
        searched: `brute force`, or the name and kind of the index.
        runs: The documents found, at most 100 per query.
        metrics: Metrics of the runs, one value per query in the order of the collection.
    """

    collection: Collection
    checkpoint: str
    searched: str
    runs: Mapping[str, Run]
    metrics: Mapping[str, Metrics]

    def difference(self, one: str, other: str, metric: str = "ndcg@10") -> PairedDifference:
        """Compares a metric of two settings over the same queries."""
        return paired_difference(self.metrics[one][metric], self.metrics[other][metric])

    def to_dict(self) -> dict[str, Any]:
        """Gives the means and differences for JSON; runs are left out."""
        return {
            "collection": self.collection.name,
            "split": self.collection.split,
            "queries": len(self.collection.queries),
            "documents": len(self.collection.documents),
            "checkpoint": self.checkpoint,
            "searched": self.searched,
            "means": {name: mean_metrics(metrics) for name, metrics in self.metrics.items()},
            "differences": {
                f"{one} - {other}": {
                    metric: self.difference(one, other, metric).to_dict() for metric in METRICS
                }
                for one, other in combinations(self.metrics, 2)
            },
        }

    def render(self) -> str:
        """Renders a table that compares each setting with the last one."""
        *others, last = self.metrics
        head = f"{'routes':>8}  " + "".join(f"{metric:>12}" for metric in METRICS)
        lines = [
            f"{self.collection.name}, {self.collection.split}: {len(self.collection.queries):,} queries, "
            f"{len(self.collection.documents):,} documents, {self.searched}",
            head + (f"  nDCG@10 less that of {last} [95 % interval], p" if others else ""),
        ]
        for name, metrics in self.metrics.items():
            line = f"{name:>8}  " + "".join(f"{metrics[one].mean():12.4f}" for one in METRICS)
            if name != last:
                found = self.difference(name, last)
                line += f"  {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], {found.p_value:.4f}"
            lines.append(line)
        return "\n".join(lines)

    def write_runs(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes a TREC run file for each setting, as trec_eval reads it.

        Raises:
            ValueError: An id has white space, which separates fields in that format.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for name, run in self.runs.items():
            path = target / f"{self.collection.name}-{self.collection.split}-{name}.trec"
            path.write_text("".join(trec_lines(run, f"fastlane-{name}")), encoding="utf-8")
            written.append(path)
        return written


def trec_lines(run: Run, tag: str) -> Iterator[str]:
    """Yields the lines `query Q0 document rank score tag` of a run, best first."""
    for query, scores in run.items():
        for rank, (document, score) in enumerate(in_order(scores), start=1):
            for id in (query, document):
                if id.split() != [id]:
                    raise ValueError(f"a TREC run can't hold the id {id!r}: it has white space")
            yield f"{query} Q0 {document} {rank} {score!r} {tag}\n"


def run_evaluate(
    checkpoint: str | os.PathLike[str] | FastLaneEncoder,
    data: str | os.PathLike[str],
    *,
    routes: Sequence[QueryRoutes] = ALL_ROUTES,
    document_routes: DocumentRoutes = "default",
    index: str | os.PathLike[str] | None = None,
    rerank: int | None = None,
    split: str | None = None,
    limit_queries: int | None = None,
    limit_documents: int | None = None,
    batch_size: int = 32,
    show_progress: bool = False,
) -> Evaluation:
    """Measures nDCG@10, MRR@10, Recall@100 and MAP@100 with each number of routes.

    Data, index and arguments are checked before the checkpoint is loaded.

    Args:
        checkpoint: A folder, a Hub name, or an encoder.
        data: A BEIR folder, see `read_collection`.
        routes: Numbers of routes of the queries, None for all views, or "default".
        document_routes: Views kept per document in brute force: a number, a fraction, None for all, or
            "default". An index has its own setting.
        index: Folder of an index of the collection's documents to search. Without it every document is
            scored exactly, in memory.
        rerank: With an index, the number of best documents to rank again by all views.
        split: Name of the judgements.
        limit_queries: Evaluate only the first queries; the results can't be compared with published ones.
        limit_documents: Keep the judged documents, and others up to this number.
        batch_size: Texts per forward pass.
        show_progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The data is broken, the index isn't of this checkpoint or of these documents, or an
            argument is out of range or can't apply.
    """
    from .. import FastLaneEncoder, FastLaneIndex
    from ..index.identity import digest_of
    from ..modeling.search_fastlane import check_counts

    check_pytrec_eval()
    check_counts(batch_size=batch_size)
    if index is None and rerank is not None:
        raise ValueError("rerank is for the search of an index: name one")
    if index is not None and document_routes != "default":
        raise ValueError("an index has its own document routes: leave document_routes out")
    names = check_routes(routes, rerank)
    check_document_routes(document_routes)
    collection = read_collection(data, split).limit(limit_queries, limit_documents)
    stored = None
    if index is not None:
        stored = FastLaneIndex.load(index)
        check_same_documents(stored, collection)
    encoder = checkpoint if isinstance(checkpoint, FastLaneEncoder) else FastLaneEncoder(checkpoint)
    if stored is not None:
        stored.encoder = encoder
        searched = f"index {Path(str(index)).name}, {stored.vectors.kind} {stored.vectors.storage}"
        searched += f", rerank {rerank}" if rerank else ""
        runs = [search_index(stored, collection, k, rerank, batch_size) for k in routes]
    else:
        searched = "brute force"
        documents = encode_all(encoder, collection, document_routes, batch_size, show_progress)
        runs = [search_all(encoder, documents, collection, k, batch_size) for k in routes]
    return Evaluation(
        collection,
        digest_of(encoder),
        searched,
        dict(zip(names, runs, strict=True)),
        {name: evaluate_run(collection, run) for name, run in zip(names, runs, strict=True)},
    )


def check_routes(routes: Sequence[QueryRoutes], rerank: int | None = None) -> list[str]:
    """Gives the names of numbers of routes; a ValueError if one is out of range or there twice."""
    from ..index.arguments import check_search

    names = [setting_name(one) for one in routes]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"routes must be different settings, got {', '.join(names) or 'none'}")
    for one in routes:
        check_search(["query"], min(DEPTH, rerank or DEPTH), one, None, rerank)
    return names


def check_document_routes(document_routes: DocumentRoutes) -> None:
    """Raises a ValueError if the views kept per document are out of range."""
    from ..modeling.routing_fastlane import check_num_routes

    if document_routes != "default":
        try:
            check_num_routes(document_routes, allow_fraction=True)
        except ValueError as error:
            raise ValueError(str(error).replace("num_routes", "document_routes")) from None


def setting_name(num_routes: QueryRoutes) -> str:
    """Names a number of routes as tables and files do: `all` for None."""
    return "all" if num_routes is None else str(num_routes)


def encode_all(
    encoder: FastLaneEncoder,
    collection: Collection,
    num_routes: DocumentRoutes,
    batch_size: int,
    show_progress: bool,
) -> DocumentViews:
    """Encodes all documents of a collection; views are stored in float32. Warns of texts that are cut."""
    from tqdm.auto import tqdm

    from ..index.windows import LongDocuments

    long = LongDocuments.of(encoder, "cut")
    texts = list(collection.documents.values())
    store = BlockStore(np.float32)
    for start in tqdm(range(0, len(texts), _TEXTS), "documents", disable=not show_progress):
        chunk = texts[start : start + _TEXTS]
        long.are_long(chunk, list(collection.documents)[start : start + _TEXTS])
        for views in encoder.encode_document(
            chunk, num_routes=num_routes, batch_size=batch_size, show_progress_bar=False
        ):
            store.add(views.float().cpu().numpy())
    long.tell()
    return store.documents()


def search_all(
    encoder: FastLaneEncoder,
    documents: DocumentViews,
    collection: Collection,
    num_routes: QueryRoutes,
    batch_size: int,
) -> Run:
    """Ranks all documents of a collection by exact MaxSim."""
    encoded = encoder.encode_query(
        list(collection.queries.values()),
        num_routes=num_routes,
        batch_size=batch_size,
        show_progress_bar=False,
    )
    scored = score_by_maxsim((views.float().cpu().numpy() for views in encoded), documents)
    ids = list(collection.documents)
    return {
        query: {ids[place]: float(scores[place]) for place in top_documents(scores, DEPTH)}
        for query, scores in zip(collection.queries, scored, strict=True)
    }


def check_same_documents(index: FastLaneIndex, collection: Collection) -> None:
    """Raises a ValueError unless the index has the documents of the collection, by id as text."""
    missing = collection.documents.keys() - map(str, index.ids)
    if missing or len(index) != len(collection.documents):
        example = f", {min(missing)!r} for example isn't there" if missing else ""
        raise ValueError(
            f"the index holds {len(index):,} documents, {collection.name} has "
            f"{len(collection.documents):,}{example}: index its corpus"
        )


def search_index(
    index: FastLaneIndex,
    collection: Collection,
    num_routes: QueryRoutes,
    rerank: int | None,
    batch_size: int,
) -> Run:
    """Runs the queries of a collection through the search of an index."""
    found = index.search(
        list(collection.queries.values()),
        min(DEPTH, rerank or DEPTH),
        num_routes,
        rerank=rerank,
        batch_size=batch_size,
    )
    return {
        query: {str(hit.id): hit.score for hit in hits}
        for query, hits in zip(collection.queries, found, strict=True)
    }
