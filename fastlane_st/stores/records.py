"""What a store keeps of one document: a key, a digest of its content, and the facts that filters ask for."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from ..index.filters import kind_of
from ..index.segment import Document
from ..index.windows import Window, Windows
from ..modeling.search_fastlane import Id, Metadata
from .settings import StoreSettings

EXACT_INTEGERS = 2**53
"""Integers up to this are exact in float64, as stores keep numbers."""
LONGEST_FACT = 256
_INTEGER, _TEXT = "int:", "str:"


class Record(NamedTuple):
    """A document on its way into a store.

    Attributes:
        key: Of its id (`key_of`).
        document: With vectors as the store keeps them, in float32.
        facts: See `facts_of`.
        digest: Equal digests mean equal content, so that an export passes over what is there.
    """

    key: str
    document: Document
    facts: list[str]
    digest: str

    @classmethod
    def of(
        cls,
        document: Document,
        settings: StoreSettings,
        digest: str | None = None,
        *,
        is_compared: bool = True,
    ) -> Record:
        """Checks a document and makes its record, without facts if no store will compare its metadata.

        Raises:
            ValueError: It has no vectors, other than the store's, or metadata that no store compares.
        """
        vectors = document.views.vectors
        owner = f"document {document.id!r}"
        if len(vectors) == 0:
            raise ValueError(f"{owner} has no vectors: a store can't find it, leave it out")
        if vectors.shape[1] != settings.dim:
            raise ValueError(
                f"{owner} has {vectors.shape[1]}-dimensional vectors, the store holds {settings.dim}"
            )
        with np.errstate(over="ignore"):
            stored = vectors.astype(settings.dtype).astype(np.float32)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"{owner} has a vector that {settings.storage} can't hold: create the store with "
                "storage='float32'"
            )
        if settings.distance == "cosine":
            lengths = np.linalg.norm(vectors, axis=1)
            worst = float(lengths[np.abs(lengths - 1).argmax()])
            if abs(worst - 1) > 0.01:
                raise ValueError(
                    f"{owner} has a vector of length {worst:.3g}, and the store compares by cosine: "
                    "normalise it, or create the store with distance='dot'"
                )
        kept = document._replace(views=document.views._replace(vectors=stored))
        facts = facts_of(document.metadata, owner) if is_compared else []
        return cls(key_of(document.id), kept, facts, digest or digest_of(kept))


def key_of(id: Id) -> str:
    """The text that stands for an id, another one for 1 than for "1".

    >>> key_of("d1"), key_of(1), key_of("int:1")
    ('d1', 'int:1', 'str:int:1')
    """
    if not isinstance(id, str):
        return f"{_INTEGER}{id}"
    return _TEXT + id if id.startswith((_INTEGER, _TEXT)) else id


def id_of(key: str) -> Id:
    """The id that `key_of` made a key of."""
    if key.startswith(_INTEGER):
        return int(key.removeprefix(_INTEGER))
    return key.removeprefix(_TEXT)


def fact_of(field: str, value: Any) -> str:
    """The fact that a document has a field of this value; 1 and 1.0 are one value, True is another.

    A long one is replaced by its digest.

    >>> fact_of("year", 2024.0), fact_of("draft", True)
    ('{"year": 2024}', '{"draft": true}')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _short(json.dumps({field: value}))


def kind_fact(field: str, kind: str) -> str:
    """The fact that a document has a field of this kind: text, number, truth value or None."""
    return _short(json.dumps({field: {"$kind": kind}}))


def facts_of(metadata: Metadata, owner: str) -> list[str]:
    """What equality and existence are decided by: each field's value and its kind.

    Raises:
        ValueError: An integer is too large to be compared as float64; it names the `owner`.
    """
    facts = []
    for field, value in metadata.items():
        check_number(value, f"{field!r} of {owner}")
        facts += [fact_of(field, value), kind_fact(field, kind_of(value))]
    return facts


def check_number(value: Any, owner: str) -> None:
    """Raises a ValueError for an integer that float64 can't hold exactly."""
    if kind_of(value) == "number" and isinstance(value, int) and abs(value) > EXACT_INTEGERS:
        raise ValueError(
            f"{owner} is {value!r:.40}, beyond the integers that stores compare exactly (2^53): make it a "
            "text"
        )


def digest_of(document: Document) -> str:
    """A digest of everything that a store keeps of a document."""
    hashed = hashlib.blake2b(digest_size=16)
    about = [document.id, document.text, dict(document.metadata), document.windows]
    hashed.update(json.dumps(about, sort_keys=True).encode())
    hashed.update(np.ascontiguousarray(document.views.positions, dtype="<i4").tobytes())
    hashed.update(np.ascontiguousarray(document.views.vectors, dtype="<f4").tobytes())
    return hashed.hexdigest()


def windows_to_json(windows: Windows) -> str | None:
    """A document's windows as JSON; None for none."""
    return json.dumps([list(window) for window in windows]) if windows else None


def windows_from_json(text: str | None) -> Windows:
    """Reads what `windows_to_json` wrote."""
    return tuple(Window(*one) for one in json.loads(text)) if text else ()


def _short(fact: str) -> str:
    if len(fact) <= LONGEST_FACT:
        return fact
    return f"blake2b {hashlib.blake2b(fact.encode(), digest_size=16).hexdigest()}"
