"""What a store remembers beside its documents: what its vectors are, and which checkpoint made them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..index.arguments import check_encoder
from ..index.context import ContextMixing
from ..index.encoding import DocumentRoutes
from ..index.identity import is_of_checkpoint
from ..index.long_texts import LongTexts
from ..modeling.search_fastlane import check_counts

FORMAT = 1

Distance: TypeAlias = Literal["dot", "cosine"]
StoreStorage: TypeAlias = Literal["float16", "float32"]


@dataclass(frozen=True)
class StoreSettings:
    """The settings of one store, kept in it as JSON.

    Attributes:
        dim: Length of a vector.
        storage: What a number of a vector is stored as; scores are of what is stored.
        distance: "cosine" where the store's own index needs vectors of unit length, which is then checked.
        checkpoint: Digests of the checkpoint that encoded the documents, as an index has them; empty if
            unknown, and then any encoder of the dimension will do.
        document_routes, long_texts, context: How texts are encoded that are added, as an index has them.
    """

    dim: int
    storage: StoreStorage = "float16"
    distance: Distance = "dot"
    checkpoint: tuple[str, ...] = ()
    document_routes: DocumentRoutes = "default"
    long_texts: LongTexts = "window"
    context: ContextMixing | None = None

    def __post_init__(self) -> None:
        check_counts(dim=self.dim)
        for name, value, known in (
            ("storage", self.storage, get_args(StoreStorage)),
            ("distance", self.distance, get_args(Distance)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")

    @property
    def dtype(self) -> npt.DTypeLike:
        """NumPy's type of `storage`."""
        return np.dtype(self.storage)

    def to_json(self) -> str:
        """The settings as a store keeps them."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes | None, address: str) -> StoreSettings:
        """Reads what `to_json` wrote; a ValueError names the store's address."""
        if text is None:
            raise ValueError(
                f"{address} wasn't made by fastlane_st: create a store of another name"
            )
        try:
            found: dict[str, Any] = json.loads(text)
            if found.pop("format") != FORMAT:
                raise ValueError("of another version")
            context = found.pop("context")
            checkpoint = tuple(found.pop("checkpoint"))
            mixing = None if context is None else ContextMixing(**context)
            return cls(checkpoint=checkpoint, context=mixing, **found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{address} has settings that this version of fastlane_st can't read ({error}): export anew"
            ) from None

    def check_encoder(self, encoder: Any, address: str) -> None:
        """Raises a ValueError for an encoder of another dimension or checkpoint than the store's."""
        check_encoder(encoder)
        dim = None if encoder is None else encoder.get_embedding_dimension()
        if dim is not None and dim != self.dim:
            raise ValueError(
                f"the encoder gives {dim}-dimensional vectors, {address} holds {self.dim}: use the "
                "checkpoint that encoded its documents"
            )
        if encoder is None or not self.checkpoint:
            return
        if not is_of_checkpoint(encoder, list(self.checkpoint)):
            raise ValueError(
                f"{address} was filled by another checkpoint than this encoder's: use that one, or export "
                "the documents anew"
            )
