"""Runs Sentence Transformers' NanoBEIR evaluator with several numbers of routes.

Its thirteen data sets have about 50 queries and 5,000 documents each. They are read by `datasets`, which runs
no code of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers import __version__ as version
from sentence_transformers.multi_vector_encoder.evaluation import (
    MultiVectorInformationRetrievalEvaluator,
    MultiVectorNanoBEIREvaluator,
)
from sentence_transformers.sentence_transformer.evaluation.nano_beir import (
    DATASET_NAME_TO_HUMAN_READABLE,
)
from sentence_transformers.util.similarity import maxsim
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..index.identity import digest_of
from ..loading import HUB_NAME
from ..modeling.search_fastlane import check_counts
from .evaluate import check_document_routes, check_routes

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder
    from ..index.arguments import QueryRoutes
    from ..index.encoding import DocumentRoutes

HUB_DATA = "sentence-transformers/NanoBEIR-en"
DATA_SETS = tuple(DATASET_NAME_TO_HUMAN_READABLE)
NANO_ROUTES: tuple[QueryRoutes, ...] = (1, 2, None)
MEAN = "mean"
_DOCUMENTS = 1000  # at once: 0.4 GB at 256 views of 384 numbers; the results don't depend on it


@dataclass(frozen=True)
class NanoBeirEvaluation:
    """Results of `run_nano_beir`.

    Attributes:
        data: The folder or Hub name that was read.
        checkpoint: Digest of the weights, see `encoder_digests`.
        sizes: Numbers of queries and documents, by data set.
        metrics: Metrics as the evaluator names them (`ndcg@10`, `recall@5`, …), by the number of routes
            (`all` for None) and the data set or `mean`.
    """

    data: str
    checkpoint: str
    sizes: Mapping[str, tuple[int, int]]
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]

    def to_dict(self) -> dict[str, Any]:
        """Gives all metrics for JSON."""
        return {
            "collection": "NanoBEIR",
            "evaluator": f"MultiVectorNanoBEIREvaluator of sentence-transformers {version}",
            "data": self.data,
            "checkpoint": self.checkpoint,
            "searched": "brute force",
            "means": {setting: found[MEAN] for setting, found in self.metrics.items()},
            "data_sets": {
                name: {
                    "queries": queries,
                    "documents": documents,
                    "metrics": {setting: found[name] for setting, found in self.metrics.items()},
                }
                for name, (queries, documents) in self.sizes.items()
            },
        }

    def render(self) -> str:
        """Renders a table of nDCG@10: a row for each data set, a column for each number of routes."""
        lines = [
            f"NanoBEIR from {self.data}, nDCG@10 by number of routes, brute force",
            f"{'data set':<18}{'queries':>8}{'documents':>11}"
            + "".join(f"{setting:>10}" for setting in self.metrics),
        ]
        rows = [(name, f"{q:8,}{n:11,}") for name, (q, n) in self.sizes.items()]
        for name, sizes in [*rows, (MEAN, "")]:
            values = (found[name]["ndcg@10"] for found in self.metrics.values())
            lines.append(f"{name:<18}{sizes:19}" + "".join(f"{value:10.4f}" for value in values))
        return "\n".join(lines)


def run_nano_beir(
    checkpoint: str | os.PathLike[str] | FastLaneEncoder,
    *,
    data_sets: Sequence[str] = DATA_SETS,
    nano_beir_data: str | os.PathLike[str] = HUB_DATA,
    routes: Sequence[QueryRoutes] = NANO_ROUTES,
    document_routes: DocumentRoutes = "default",
    batch_size: int = 32,
    show_progress: bool = False,
) -> NanoBeirEvaluation:
    """Measures NanoBEIR with each number of routes, as `MultiVectorNanoBEIREvaluator` does.

    Documents are encoded once for all numbers of routes. Arguments are checked, and all data sets read,
    before the checkpoint is loaded.

    Args:
        checkpoint: A folder, a Hub name, or an encoder.
        data_sets: Some of `DATA_SETS`; case doesn't matter.
        nano_beir_data: The Hub name of data sets in NanoBEIR's layout, such as a translation, or a folder
            that `hf download` wrote.
        routes: Numbers of routes of the queries, None for all views, or "default".
        document_routes: Views kept per document: a number, a fraction, None for all, or "default".
        batch_size: Texts per forward pass.
        show_progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: There is no such folder.
        ImportError: `datasets` isn't installed.
        ValueError: A data set can't be read, from the Hub or from the folder, or an argument is out of
            range.
    """
    from .. import FastLaneEncoder

    settings = check_routes(routes)
    check_counts(batch_size=batch_size)
    check_document_routes(document_routes)
    names = [name.lower() for name in data_sets]
    unknown = [name for name in names if name not in DATA_SETS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            f"data_sets must be different ones of {', '.join(DATA_SETS)}, got "
            f"{', '.join(unknown or names) or 'none'}"
        )
    evaluator = RoutedNanoBEIREvaluator(
        names,
        find_data(nano_beir_data),
        routes=routes,
        document_routes=document_routes,
        score_functions={name: partial(score, place) for place, name in enumerate(settings)},
        corpus_chunk_size=_DOCUMENTS,
        batch_size=batch_size,
        show_progress_bar=show_progress,
    )
    encoder = checkpoint if isinstance(checkpoint, FastLaneEncoder) else FastLaneEncoder(checkpoint)
    found = evaluator(encoder)
    sizes = {one.name: (len(one.queries), len(one.corpus)) for one in evaluator.evaluators}
    owners = {name: name for name in sizes} | {MEAN: evaluator.name}
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for setting in settings:
        for name, owner in owners.items():
            prefix = f"{owner}_{setting}_"
            metrics.setdefault(setting, {})[name] = {
                key.removeprefix(prefix): float(value)
                for key, value in found.items()
                if key.startswith(prefix)
            }
    return NanoBeirEvaluation(str(nano_beir_data), digest_of(encoder), sizes, metrics)


def find_data(name_or_path: str | os.PathLike[str]) -> str:
    """Resolves a folder, or the Hub name `owner/name`; `datasets` would take `json` for a format.

    Raises:
        FileNotFoundError: It is neither.
        ImportError: `datasets` isn't installed.
    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ImportError("NanoBEIR is read by datasets: pip install datasets") from error
    name = str(name_or_path)
    if Path(name).is_dir():
        return str(Path(name).resolve())
    if "/" not in name or not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"there is no folder {name}, and that is no name of a Hub data set, such as {HUB_DATA}"
        )
    return name


def score(place: int, queries: Tensor, documents: list[Tensor]) -> Tensor:
    """Scores N documents, (views, D) each, by MaxSim with one setting of the queries; gives (Q, N).

    `queries` are (Q, settings, views, D), padded with zeros, and `place` is that of the setting.
    """
    found: Tensor = maxsim(queries[:, place], documents)
    return found


class RoutedEvaluator(MultiVectorInformationRetrievalEvaluator):
    """The evaluator of one data set; its score functions are `score`, one for each of `routes`."""

    def __init__(self, *args: Any, routes: Any, document_routes: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.routes = routes
        self.document_routes = document_routes

    def embed_inputs(
        self,
        model: Any,
        sentences: Any,
        encode_fn_name: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encodes documents as a list of (views, D), queries as (Q, settings, views, D)."""
        texts = (model, sentences, encode_fn_name, prompt_name, prompt)
        embed: Any = partial(super().embed_inputs, *texts, **kwargs)
        if encode_fn_name == "document":
            return embed(num_routes=self.document_routes)
        encoded = [embed(num_routes=num_routes) for num_routes in self.routes]
        by_view = pad_sequence([views.transpose(0, 1) for views in encoded])
        return by_view.permute(2, 1, 0, 3)


class RoutedNanoBEIREvaluator(MultiVectorNanoBEIREvaluator):
    """The evaluator of all data sets; an error in reading one names it and says how to get it."""

    def __init__(self, *args: Any, routes: Any, document_routes: Any, **kwargs: Any) -> None:
        self.information_retrieval_class: Any = partial(
            RoutedEvaluator, routes=routes, document_routes=document_routes
        )
        self.problem: ValueError | None = None
        super().__init__(*args, **kwargs)
        if self.problem is not None:  # only here has the progress bar left the error's line
            raise self.problem

    def _load_dataset(self, dataset_name: str, **kwargs: Any) -> Any:
        if self.problem is not None:
            return None
        name = self._get_human_readable_name(dataset_name)
        try:
            found = super()._load_dataset(dataset_name, **kwargs)
        except (ValueError, TypeError) as error:  # a TypeError for a text that is null
            reason = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")
            source = HUB_DATA if Path(self.dataset_id).is_dir() else self.dataset_id
            self.problem = ValueError(
                f"{name} can't be read: {reason}; 'hf download {source} --repo-type dataset --local-dir "
                "nano-beir', where there is a network, makes a folder to name with nano_beir_data"
            )
            self.problem.__cause__ = error
            return None
        for part, texts in (("judged queries", found.queries), ("documents", found.corpus)):
            if not texts:
                self.problem = ValueError(f"{name} of {self.dataset_id} has no {part}")
        return found
