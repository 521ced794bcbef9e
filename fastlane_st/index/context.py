"""Context mixed into an index's vectors: what a retrofitted model does as it encodes documents.

It relies on `mix_context`, and on `FastLaneModel` for what an encoder mixes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from ..modeling.fingerprint_fastlane import fastlane_model
from ..modeling.projection_fastlane import Context, mix_context
from ..modeling.routing_fastlane import unit
from ..modeling.search_fastlane import Views
from .contents import IndexContents, Part
from .segment import Document, collect_segment
from .vectors.settings import FloatArray, Storage, VectorSettings
from .vectors.store import VectorStore

WINDOW_SIZE = 6.0
_UNIT_SLACK = 0.01  # float16 moves a unit vector's length by less
_CODED_SLACK = 0.9  # int8, int4 and pq by less, even beyond what they were fitted to


@dataclass(frozen=True)
class ContextMixing:
    """How documents' vectors get their context: by `mix_context`, all vectors of a document alike.

    Attributes:
        context: What is mixed in, with weight 1.
        window_size: Standard deviation of the window, in tokens.
    """

    context: Context
    window_size: float = WINDOW_SIZE

    @classmethod
    def choose(cls, context: Context | None, window_size: float | None) -> ContextMixing | None:
        """Checks the arguments of `FastLaneIndex.from_embeddings`; None for no context."""
        if context is not None and context not in get_args(Context):
            known = ", ".join(map(repr, get_args(Context)))
            raise ValueError(f"context must be {known} or None, got {context!r}")
        if window_size is not None and context not in ("window", "both"):
            raise ValueError(
                f'window_size applies to the contexts "window" and "both", got {window_size} with '
                f"context={context!r}: leave it out"
            )
        if window_size is not None and not 0 < window_size < float("inf"):
            raise ValueError(f"window_size must be a number above 0, got {window_size}")
        return None if context is None else cls(context, window_size or WINDOW_SIZE)

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of window and document."""
        return float(self.context != "document"), float(self.context != "window")

    def mix(self, views: Views, owner: str, slack: float = _UNIT_SLACK) -> Views:
        """A document's vectors in their context; a ValueError names the `owner` of one not of unit length.

        Lengths that differ from 1 by less than `slack` are those of a storage, and are made 1.
        """
        vectors, positions = views
        if not len(vectors):
            return views
        lengths = np.linalg.norm(vectors, axis=1)
        worst = int(np.abs(lengths - 1).argmax())
        if abs(lengths[worst] - 1) > slack:
            raise ValueError(
                f"{owner} has a vector of length {lengths[worst]:.3g}: context is mixed into vectors of "
                "unit length; normalise them, or leave context out"
            )
        mixed = mix_context(
            unit(torch.from_numpy(vectors))[None],
            torch.ones(1, len(vectors)),
            *self.weights,
            self.window_size,
            torch.from_numpy(positions),
        )
        return Views(mixed[0].numpy(), positions)

    def is_done_by(self, encoder: object) -> bool:
        """Whether an encoder mixes this context into documents itself; other than FastLane's mix none.

        Raises:
            ValueError: It mixes another one.
        """
        model = fastlane_model(encoder)
        if model is None:
            return False
        config = model.config
        weights = (config.window_context_weight, config.document_context_weight)
        if not any(weights):
            return False
        is_window_alike = not weights[0] or config.window_size == self.window_size
        is_alike = is_window_alike and not config.document_length_power
        if weights != self.weights or not is_alike:
            raise ValueError(
                f"the index mixes the context {self.context!r} into vectors, and its encoder mixes another "
                f"one into documents (weights {weights[0]:g} and {weights[1]:g}, window_size "
                f"{config.window_size:g}): use an encoder that read_late_interaction made with "
                "the index's context or with none, or give vectors"
            )
        return True


def unit_slack(storage: Storage) -> float:
    """How far the length of a stored unit vector may be from 1."""
    return _UNIT_SLACK if storage in ("float32", "float16") else _CODED_SLACK


def mixed_contents(
    contents: IndexContents, settings: VectorSettings, mixing: ContextMixing
) -> IndexContents:
    """The live documents in their context, in segments of their own; stores are fitted to the new vectors.

    Raises:
        ValueError: A vector isn't of unit length, or a long document was encoded as windows.
    """
    parts = [part for part in contents.parts if part.num_documents]
    count = sum(part.num_vectors for part in parts)
    slack = unit_slack(settings.storage)
    sample = mixed_sample(parts, settings.sample_size(count), mixing, slack)
    template = VectorStore.fitted(settings, sample, count)
    segments = [collect_segment(mixed(part.documents(), mixing, slack), template) for part in parts]
    return IndexContents(
        template, list(map(Part.whole, segments)), contents.next_place, contents.next_id
    )


def mixed(documents: Iterable[Document], mixing: ContextMixing, slack: float) -> Iterator[Document]:
    """Documents with their context mixed in."""
    for document in documents:
        owner = f"document {document.id!r}"
        if document.windows:
            raise ValueError(
                f"{owner} is a long text whose windows were encoded apart: context can't be mixed into its "
                "vectors afterwards; build the index again"
            )
        yield document._replace(views=mixing.mix(document.views, owner, slack))


def mixed_sample(
    parts: Sequence[Part], count: int, mixing: ContextMixing, slack: float
) -> FloatArray:
    """About `count` vectors of documents spread evenly, in context, or all if there are fewer."""
    share = count / max(1, sum(part.num_vectors for part in parts))
    found: list[FloatArray] = []
    for part in parts:
        numbers = part.numbers()
        wanted = min(len(numbers), int(1.2 * share * len(numbers)) + 1)
        spread = [numbers[len(numbers) * place // wanted] for place in range(wanted)]
        found += [each.views.vectors for each in mixed(part.segment.read(spread), mixing, slack)]
    return np.concatenate(found)
