"""An index of the checkpoint's vectors that is there already: trained on, then searched by routes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from textwrap import shorten

import numpy as np
import numpy.typing as npt

from ..data.corpus import CorpusDocument
from ..index.context import ContextMixing, unit_slack
from ..index.identity import encoder_digests
from ..index.index import FastLaneIndex
from ..index.segment import Segment
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import Context
from ..modeling.search_fastlane import Encoder

COMPARED = 16
"""Documents that are encoded to see whether an index holds the checkpoint's vectors."""
ALIKE = {"float32": 0.99, "float16": 0.99, "int8": 0.95, "int4": 0.8, "pq": 0.5}
"""Mean cosine of stored with encoded vectors that is asked for, by storage."""


class StoredDocuments:
    """The texts of an index, and their vectors with the context that a retrofit mixes in.

    Raises:
        ValueError: Documents without texts, or with context mixed in already.
    """

    def __init__(self, index: FastLaneIndex, context: Context | None) -> None:
        if index.context is not None:
            raise ValueError(
                f"the index mixes the context {index.context.context!r} into its vectors: retrofit with one "
                "of the checkpoint's own vectors"
            )
        self._storage = index.vectors.storage
        self._mixing = ContextMixing.choose(context, None)
        self._places: dict[str, tuple[Segment, int]] = {}
        self._long: set[str] = set()
        self.documents: list[CorpusDocument] = []
        for part in index.parts:
            for number, stored in zip(part.numbers(), part.stored(), strict=True):
                if stored.text is None:
                    raise ValueError(
                        f"document {stored.id!r} has no text, of which queries are made: give "
                        "from_embeddings the texts, or retrofit with a corpus"
                    )
                self.documents.append(CorpusDocument(str(stored.id), stored.text))
                content = self.documents[-1].content
                self._places[content] = (part.segment, number)
                if stored.windows:
                    self._long.add(content)

    def __contains__(self, text: str) -> bool:
        return text in self._places

    def vectors(self, text: str) -> npt.NDArray[np.float32]:
        """(T, D) of one document, by its text, with context."""
        segment, number = self._places[text]
        [document] = segment.read([number])
        if self._mixing is None:
            return document.views.vectors
        slack = unit_slack(self._storage)
        return self._mixing.mix(document.views, f"document {document.id!r}", slack).vectors

    def check(self, model: FastLaneModel, texts: Sequence[str]) -> None:
        """Raises a ValueError unless the index holds what the model gives for some of these texts.

        Texts beyond the model's length aren't compared: the index has all windows of them, or their start.
        """
        short = (text for text in texts if text in self and text not in self._long)
        compared = list(islice(short, COMPARED))
        if not compared:
            return
        encoded = model.encode_document(compared, num_routes=None, convert_to_numpy=True)
        cosines = []
        for text, expected in zip(compared, encoded, strict=True):
            found = self.vectors(text)
            if found.shape != expected.shape:
                raise ValueError(
                    f"the index holds {found.shape[0]} vectors of {found.shape[1]} dimensions for "
                    f"{shortened(text)}, and the checkpoint gives {expected.shape[0]} of "
                    f"{expected.shape[1]}: they are of another checkpoint or tokenizer, or they were pooled"
                )
            lengths = np.linalg.norm(found, axis=1)
            if np.abs(lengths - 1).max() > unit_slack(self._storage):
                raise ValueError(
                    f"the index's vectors aren't of unit length: {shortened(text)} has one of "
                    f"{lengths[np.abs(lengths - 1).argmax()]:.3g}"
                )
            cosines.append((found * expected).sum(axis=1) / lengths)
        cosine = float(np.concatenate(cosines).mean())
        if cosine < ALIKE[self._storage]:
            raise ValueError(
                f"the index's vectors aren't this checkpoint's: their mean cosine with what it gives is "
                f"{cosine:.2f}"
            )


def shortened(text: str) -> str:
    """A text in quotes, cut at a word for a message."""
    return repr(shorten(text, 60, placeholder=" …"))


def adopt(index: FastLaneIndex, encoder: Encoder, context: Context | None) -> FastLaneIndex:
    """The index as one of the retrofitted checkpoint: with its context, and its digests."""
    if context is not None:
        return index.with_context(context, encoder=encoder)
    index.checkpoint = []
    index.encoder = encoder
    index.checkpoint = encoder_digests(encoder)
    return index
