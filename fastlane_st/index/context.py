"""Context mixed into an index's vectors: what a retrofitted model does as it encodes documents.

It relies on `mix_context`, and on `FastLaneModel` for what an encoder mixes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from ..modeling.fingerprint_fastlane import fastlane_model
from ..modeling.projection_fastlane import Context, mix_context
from ..modeling.search_fastlane import Views

WINDOW_SIZE = 6.0
_UNIT_SLACK = 0.01  # float16 and int8 move a unit vector's length by less


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

    def mix(self, views: Views, owner: str) -> Views:
        """A document's vectors in their context; a ValueError names the `owner` of one not of unit length."""
        vectors, positions = views
        if not len(vectors):
            return views
        lengths = np.linalg.norm(vectors, axis=1)
        worst = int(np.abs(lengths - 1).argmax())
        if abs(lengths[worst] - 1) > _UNIT_SLACK:
            raise ValueError(
                f"{owner} has a vector of length {lengths[worst]:.3g}: context is mixed into vectors of "
                "unit length; normalise them, or leave context out"
            )
        mixed = mix_context(
            torch.from_numpy(vectors)[None],
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
        projection = model.projection
        weights = (
            projection.window_context_weight.item(),
            projection.document_context_weight.item(),
        )
        if not any(weights):
            return False
        salience = model.router.document_salience.parameters()
        is_window_alike = not weights[0] or projection.window_size == self.window_size
        is_alike = is_window_alike and not any(bool(one.any()) for one in salience)
        if weights != self.weights or not is_alike:
            raise ValueError(
                f"the index mixes the context {self.context!r} into vectors, and its encoder mixes another "
                f"one into documents (weights {weights[0]:g} and {weights[1]:g}, window_size "
                f"{projection.window_size:g}): use an encoder that read_late_interaction made with "
                "the index's context or with none, or give vectors"
            )
        return True
