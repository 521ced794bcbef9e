"""FastLane checkpoints as MTEB models: brute force with any number of routes, or an index.

    import mteb
    from fastlane_st.evaluation.mteb_models import IndexedModel, RoutedModel

    mteb.evaluate(RoutedModel("fastlane-minilm", num_routes=4), mteb.get_task("SciFact"))
    mteb.evaluate(IndexedModel("fastlane-minilm", kind="ivf", storage="int8"), mteb.get_task("SciFact"))

`mteb.evaluate(FastLaneEncoder(…), …)` works too, with the checkpoint's own number of routes. MTEB's result
cache ignores `encode_kwargs`; these classes put routes and index into the name of a result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

try:
    from mteb.models import ModelMeta
    from mteb.models.sentence_transformer_wrapper import MultiVectorWrapper
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError('MTEB isn\'t installed: pip install "fastlane-st[mteb]"') from error

from ..data.corpus import CorpusDocument
from ..encoder import FastLaneEncoder
from ..hub import DEFAULT_CHECKPOINT
from ..index.identity import digest_of
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Hit

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import (
        Array,
        CorpusDatasetType,
        EncodeKwargs,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )

    from ..index.arguments import QueryRoutes
    from ..index.encoding import DocumentRoutes
    from ..index.vectors.settings import Kind, Storage

RELEASED: dict[str, Any] = {
    "languages": ["eng-Latn"],
    "license": "apache-2.0",
    "open_weights": True,
    "use_instructions": False,
    # No MTEB task besides those of the base model. The training data of training/fastlane-minilm.yaml, such
    # as part of SQuAD's training split, Stack Exchange (5 dumps) and SciTLDR, are not in MTEB.
    "training_datasets": set(),
}
"""Metadata of `fastlane-minilm` that its files lack; a submission adds Hub name, revision and date."""


class RoutedModel(MultiVectorWrapper):
    """A checkpoint in MTEB's brute force: MaxSim of every query with every document.

    Args:
        model: A folder, a Hub name, or an encoder.
        revision: Branch, tag or commit of a Hub name.
        device: Device of the encoder.
        num_routes: Routes of a query: a number, None for all views, or "default" for the
            checkpoint's.
        document_routes: Views of a document: a number, a fraction, None or "default".
        name: Name of the model in results, `organisation/model`.
        **kwargs: Those of MTEB's `MultiVectorWrapper`, such as `model_prompts`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | FastLaneEncoder,
        revision: str | None = None,
        device: str | None = None,
        *,
        num_routes: QueryRoutes = "default",
        document_routes: DocumentRoutes = "default",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        encoder = as_encoder(model, revision, device)
        super().__init__(encoder, **kwargs)
        self.num_routes = num_routes
        self.document_routes = document_routes
        settings = {"num_routes": num_routes, "document_routes": document_routes}
        self.mteb_model_meta = model_meta(model, encoder, name, revision, RoutedModel, settings)

    def _encode(
        self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any
    ) -> Array:
        is_document = prompt_type == PromptType.document
        num_routes = self.document_routes if is_document else self.num_routes
        found: Array = super()._encode(
            inputs, prompt_type=prompt_type, **{"num_routes": num_routes, **kwargs}
        )
        return found


class IndexedModel:
    """A checkpoint with an index, as MTEB's `SearchProtocol`: the results that an application gets.

    Args:
        model: A folder, a Hub name, or an encoder.
        revision: Branch, tag or commit of a Hub name.
        device: Device of the encoder.
        num_routes: Routes of a query, see `FastLaneIndex.search`; "default" is the checkpoint's.
        document_routes: Views of a document, see `FastLaneIndex.build`.
        kind, storage: Settings of the index, see `VectorSettings`.
        rerank: Number of best documents to rank again by all views of the query; at least as many as
            MTEB asks for, which is 1,000 for most tasks.
        name: Name of the model in results, `organisation/model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | FastLaneEncoder,
        revision: str | None = None,
        device: str | None = None,
        *,
        num_routes: QueryRoutes = "default",
        document_routes: DocumentRoutes = "default",
        kind: Kind | Literal["auto"] = "auto",
        storage: Storage = "float32",
        rerank: int | None = None,
        name: str | None = None,
    ) -> None:
        self.encoder = as_encoder(model, revision, device)
        if num_routes == "default":  # so that the results say how many
            num_routes = self.encoder.fastlane_config.query_num_routes
        self.num_routes = num_routes
        self.built_with: dict[str, Any] = {
            "num_routes": document_routes,
            "kind": kind,
            "storage": storage,
        }
        self.rerank = rerank
        self.searched: FastLaneIndex | None = None
        settings = {
            "num_routes": num_routes,
            "document_routes": document_routes,
            "kind": kind,
            "storage": storage,
            **({"rerank": rerank} if rerank else {}),
        }
        self.mteb_model_meta = model_meta(
            model, self.encoder, name, revision, IndexedModel, settings
        )

    def index(
        self,
        corpus: CorpusDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: EncodeKwargs,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Indexes a task's corpus: rows with `id`, `text` and optionally `title`."""
        documents = [
            CorpusDocument(row["id"], row["text"], row.get("title") or "") for row in corpus
        ]
        self.searched = FastLaneIndex.build(
            self.encoder,
            [document.content for document in documents],
            [document.id for document in documents],
            **self.built_with,
            **encode_options(encode_kwargs),
        )

    def search(
        self,
        queries: QueryDatasetType,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: EncodeKwargs,
        top_ranked: TopRankedDocumentsType | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> RetrievalOutputType:
        """Gives the scores of each query's `top_k` best documents, of those in `top_ranked` if given."""
        if self.searched is None:
            raise ValueError("there is nothing to search: call index first")
        ids = [row["id"] for row in queries]
        texts = [f"{row['text']} {row.get('instruction') or ''}".strip() for row in queries]
        options: dict[str, Any] = {
            "top_k": top_k,
            "num_routes": self.num_routes,
            "rerank": self.rerank,
            "batch_size": encode_kwargs.get("batch_size", 32),
        }
        if top_ranked is None:
            found = self._search(self.searched, texts, options)
        else:
            found = [
                hits
                for id, text in zip(ids, texts, strict=True)
                for hits in self._search(self.searched, [text], options | {"ids": top_ranked[id]})
            ]
        return {
            id: {str(hit.id): hit.score for hit in hits}
            for id, hits in zip(ids, found, strict=True)
        }

    def _search(
        self, index: FastLaneIndex, texts: list[str], options: dict[str, Any]
    ) -> list[list[Hit]]:
        """The hits of each text. An index refuses an empty one as text; its special tokens are views."""
        found = iter(index.search([text for text in texts if text], **options))
        for_views = {name: options[name] for name in ("top_k", "ids") if name in options}
        hits: list[list[Hit]] = []
        for text in texts:
            if text:
                hits.append(next(found))
                continue
            views: Any = self.encoder.encode_query(text, num_routes=self.num_routes)
            hits += index.search([views], **for_views)
        return hits


def as_encoder(
    model: str | os.PathLike[str] | FastLaneEncoder, revision: str | None, device: str | None
) -> FastLaneEncoder:
    """Loads the encoder of a folder or a Hub name; an encoder is returned as it is."""
    if isinstance(model, FastLaneEncoder):
        return model
    return FastLaneEncoder(model, revision=revision, device=device)


def encode_options(encode_kwargs: EncodeKwargs) -> dict[str, Any]:
    """Picks the entries of MTEB's `encode_kwargs` that `FastLaneIndex.build` takes."""
    return {
        name: encode_kwargs[name]
        for name in ("batch_size", "show_progress_bar")
        if name in encode_kwargs
    }


def model_meta(
    model: str | os.PathLike[str] | FastLaneEncoder,
    encoder: FastLaneEncoder,
    name: str | None,
    revision: str | None,
    loader: Any,
    settings: Mapping[str, Any],
) -> ModelMeta:
    """Describes a checkpoint and the settings it is measured with, as MTEB records them.

    Args:
        model: What the caller named; `"fastlane-minilm"` adds `RELEASED`.
        encoder: The loaded checkpoint.
        name: Name on the Hub, `organisation/model`; by default `fastlane-st/` and the folder's name.
        revision: Revision on the Hub; by default the digest of the weights.
        loader: The class that loads the model again.
        settings: Arguments of `loader` that distinguish results.
    """
    config = encoder.fastlane_config
    is_released = model == DEFAULT_CHECKPOINT
    own = Path(str(model)).name if not isinstance(model, FastLaneEncoder) else "encoder"
    num_parameters = sum(weights.numel() for weights in encoder.parameters())
    module: Any = encoder[0]
    words = module.model.backbone.get_input_embeddings()
    defaults = {
        "num_routes": config.query_num_routes,
        "document_routes": config.document_num_routes,
    }
    resolved = {
        key: defaults[key] if value == "default" else value for key, value in settings.items()
    }
    return ModelMeta.from_multi_vector_encoder_model(encoder).model_copy(
        update={
            "loader": loader,
            "loader_kwargs": dict(settings),
            "name": name or f"fastlane-st/{own}",
            "revision": revision or digest_of(encoder)[:16],
            "n_parameters": num_parameters,
            "n_embedding_parameters": words.weight.numel(),
            "memory_usage_mb": round(num_parameters * 4 / 2**20, 1),
            "max_tokens": config.document_length,
            "embed_dim": config.embedding_dim,
            "adapted_from": config.base_model,
            "experiment_kwargs": {
                key: "all" if value is None else value for key, value in resolved.items()
            },
            **(RELEASED if is_released else {}),
        }
    )
