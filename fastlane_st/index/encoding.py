"""Texts become token views: the encoder is asked for some at a time, and memory stays bounded.

A text beyond the encoder's length is encoded window by window, see `windows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

from tqdm.auto import tqdm

from ..modeling.fingerprint_fastlane import fastlane_model
from ..modeling.routing_fastlane import NumRoutes, check_num_routes
from ..modeling.search_fastlane import Encoder, Id, Views, check_counts, routed_views
from .context import ContextMixing
from .long_texts import LongTexts
from .windows import LongDocuments, Window, Windows, WindowViews, split_text

DocumentRoutes: TypeAlias = NumRoutes | Literal["default"]


class Encoded(NamedTuple):
    """The routed views of a text, and the windows that they come from if it was long."""

    views: Views
    windows: Windows = ()


@dataclass(frozen=True)
class Encoding:
    """How texts become views: the arguments of `FastLaneIndex.build`, and the index's context."""

    encoder: Encoder | None
    num_routes: DocumentRoutes = "default"
    batch_size: int = 32
    chunk_size: int = 256
    show_progress_bar: bool = False
    pool: Any = None
    long_texts: LongTexts = "window"
    context: ContextMixing | None = None

    @cached_property
    def long(self) -> LongDocuments:
        """Finds and counts long texts, in all calls of `encoded`."""
        return LongDocuments.of(self.encoder, self.long_texts)

    def encoded(self, texts: list[str], ids: list[Id]) -> Iterator[Encoded]:
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
        encoded = encode_documents(
            self.encoder, texts, ids, self.long, self.chunk_size, self.show_progress_bar, **options
        )
        return encoded if context is None else mixed(context, encoded, ids)

    def _check_all_tokens(self) -> None:
        """Raises a ValueError where the encoder would pool tokens before their context is mixed in."""
        model = fastlane_model(self.encoder)
        own = None if model is None else model.config.document_num_routes
        routes = own if self.num_routes == "default" else self.num_routes
        if routes is not None:
            raise ValueError(
                f"the index mixes context into all tokens of a document, got num_routes={routes!r}: set "
                "document_num_routes and index.document_routes to None, or give vectors"
            )


def mixed(
    context: ContextMixing, encoded: Iterable[Encoded], ids: Sequence[Id]
) -> Iterator[Encoded]:
    """Yields documents with context mixed into their views; `ids` name them in errors."""
    for one, id in zip(encoded, ids, strict=True):
        yield one._replace(views=context.mix(one.views, f"document {id!r}"))


class Piece(NamedTuple):
    """What the encoder gets: a text, or one window of it.

    Attributes:
        text: Of the piece.
        id: The document's.
        windows: All windows of the document; none if it isn't long.
        number: The piece's among them.
    """

    text: str
    id: Id
    windows: Windows
    number: int

    @property
    def window(self) -> Window | None:
        """The window that the piece is; None for a text that isn't long."""
        return self.windows[self.number] if self.windows else None

    @property
    def is_last(self) -> bool:
        """Whether the document ends with it."""
        return self.number + 1 >= len(self.windows)


def encode_documents(
    encoder: Encoder,
    texts: list[str],
    ids: list[Id],
    long: LongDocuments,
    chunk_size: int,
    show_progress_bar: bool,
    **options: Any,
) -> Iterator[Encoded]:
    """Yields each text's routed views; the padded tensors of `chunk_size` pieces are held at a time."""
    options |= {"output_value": None, "show_progress_bar": False}
    if "pool" in options:
        options["chunk_size"] = options["batch_size"]  # what each process takes at a time
    pieces = split_documents(texts, ids, long, chunk_size)
    joining = WindowViews()
    with tqdm(
        total=len(texts), desc="Indexing", unit="doc", leave=None, disable=not show_progress_bar
    ) as bar:
        while chunk := list(islice(pieces, chunk_size)):
            encoded = encoder.encode_document([piece.text for piece in chunk], **options)
            for piece, features in zip(chunk, encoded, strict=True):
                views = routed_views(features, f"document {piece.id!r}")
                if piece.window is not None:
                    joining.add(views, piece.window, piece.is_last)
                    if piece.is_last:
                        views = joining.joined()
                if piece.is_last:
                    yield Encoded(views, piece.windows)
            bar.update(sum(piece.is_last for piece in chunk))


def split_documents(
    texts: list[str], ids: list[Id], long: LongDocuments, block: int
) -> Iterator[Piece]:
    """Yields texts, and long ones window by window; `block` texts are measured at a time."""
    for start in range(0, len(texts), block):
        some, theirs = texts[start : start + block], ids[start : start + block]
        for text, id, is_long in zip(some, theirs, long.are_long(some, theirs), strict=True):
            windows: Windows = ()
            if is_long:
                assert long.tokenizer is not None
                windows = tuple(split_text(text, long.tokenizer))
            if len(windows) < 2:
                yield Piece(text, id, (), 0)
                continue
            for number, window in enumerate(windows):
                yield Piece(text[window.start : window.end], id, windows, number)
