"""Texts become token views: the encoder is asked for some at a time, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn
from tqdm.auto import tqdm

from ..modeling.routing_fastlane import NumRoutes, check_num_routes
from ..modeling.search_fastlane import Encoder, Id, Views, check_counts, routed_views
from .context import ContextMixing

DocumentRoutes: TypeAlias = NumRoutes | Literal["default"]


@dataclass(frozen=True)
class Encoding:
    """How texts become views: the arguments of `FastLaneIndex.build`, and the index's context."""

    encoder: Encoder | None
    num_routes: DocumentRoutes = "default"
    batch_size: int = 32
    chunk_size: int = 256
    show_progress_bar: bool = False
    pool: Any = None
    context: ContextMixing | None = None

    def views(self, texts: list[str], ids: list[Id]) -> Iterator[Views]:
        """Yields the views of each text in its context; `ids` name texts in errors."""
        if self.encoder is None:
            raise ValueError(
                "texts need an encoder: pass one to FastLaneIndex.load(directory, encoder), or give "
                "vectors"
            )
        check_counts(batch_size=self.batch_size, chunk_size=self.chunk_size)
        options: dict[str, Any] = {"batch_size": self.batch_size}
        if self.num_routes != "default":
            check_num_routes(self.num_routes, allow_fraction=True)
            options["num_routes"] = self.num_routes
        if self.pool is not None:
            options["pool"] = self.pool
        context = self.context
        if context is not None and not context.is_done_by(self.encoder):
            self._check_all_tokens()
        else:
            context = None
        views = document_views(
            self.encoder, texts, ids, self.chunk_size, self.show_progress_bar, **options
        )
        return (
            one if context is None else context.mix(one, f"document {id!r}")
            for one, id in zip(views, ids, strict=True)
        )

    def _check_all_tokens(self) -> None:
        """Raises a ValueError where the encoder would pool tokens before their context is mixed in."""
        first = self.encoder[0] if isinstance(self.encoder, nn.Sequential) else self.encoder
        own = getattr(getattr(first, "config", None), "document_num_routes", None)
        routes = own if self.num_routes == "default" else self.num_routes
        if routes is not None:
            raise ValueError(
                f"the index mixes context into all tokens of a document, got num_routes={routes!r}: set "
                "document_num_routes and index.document_routes to None, or give vectors"
            )


def document_views(
    encoder: Encoder,
    texts: list[str],
    ids: list[str | int],
    chunk_size: int,
    show_progress_bar: bool,
    **options: Any,
) -> Iterator[Views]:
    """Yields each text's routed views; only `chunk_size` texts' padded tensors are held at a time."""
    options |= {"output_value": None, "show_progress_bar": False}
    if "pool" in options:
        options["chunk_size"] = options["batch_size"]  # what each process takes at a time
    with tqdm(
        total=len(texts), desc="Indexing", unit="doc", leave=None, disable=not show_progress_bar
    ) as bar:
        for start in range(0, len(texts), chunk_size):
            chunk = slice(start, start + chunk_size)
            encoded = encoder.encode_document(texts[chunk], **options)
            for id, features in zip(ids[chunk], encoded, strict=True):
                yield routed_views(features, f"document {id!r}")
            bar.update(len(encoded))
