"""The vectors that all engines search, and what an engine of our own making computes."""

from __future__ import annotations

import numpy as np

from benchmarks.search.peers.collection import VectorCollection
from benchmarks.search.peers.engines import muvera
from tests.benchmarks.conftest import NUM_DOCUMENTS
from tests.index.vectors.test_store import units


def test_a_collection_gives_back_what_was_written(collection: VectorCollection) -> None:
    documents = list(collection.documents())
    rows, firsts = collection.read()
    assert len(collection) == len(documents) == len(firsts) == NUM_DOCUMENTS
    assert collection.num_vectors == len(rows)
    for number, document in enumerate(documents):
        np.testing.assert_allclose(document, units(3 + number % 4, number), atol=1e-3)
        np.testing.assert_array_equal(
            rows[firsts[number] : firsts[number] + len(document)], document
        )


def test_a_fixed_encoding_is_the_sum_over_buckets_of_projected_vectors() -> None:
    views, query = units(9, 0), units(4, 1)
    encoding = muvera.FixedEncoding(views.shape[1])
    expected, wanted = [], []
    for repetition in range(muvera.REPETITIONS):
        planes = encoding.hyperplanes[:, repetition]
        projection = encoding.projections[:, repetition]
        codes = [
            int("".join("01"[int(bit > 0)] for bit in (one @ planes)[::-1]), 2) for one in views
        ]
        for bucket in range(2**muvera.HYPERPLANES):
            members = [one for one, code in zip(views, codes, strict=True) if code == bucket]
            distances = [(bucket ^ code).bit_count() for code in codes]
            nearest = views[int(np.argmin(distances))]
            expected.append((np.mean(members, axis=0) if members else nearest) @ projection)
            above = query @ planes > 0
            mine = query[(above @ (1 << np.arange(muvera.HYPERPLANES))) == bucket]
            wanted.append(mine.sum(axis=0) @ projection)
    np.testing.assert_allclose(encoding.document(views), np.concatenate(expected), atol=1e-5)
    np.testing.assert_allclose(encoding.query(query), np.concatenate(wanted), atol=1e-5)
