"""Context mixed into vectors that are there: what a model with context encodes, kept through a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from fastlane_st import FastLaneIndex, FastLaneModel
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index.adding import add_to_folder
from fastlane_st.index.storage.manifest import with_checksum
from fastlane_st.modeling.projection_fastlane import Context
from fastlane_st.retrofit.source import read_late_interaction
from tests.conftest import DOCUMENTS
from tests.support.late_interaction import write_multi_vector_encoder, write_pylate
from tests.support.vectors import units

SKIPPING = "sort a list ? and read ? the file"  # neither form has vectors of its ?
TEXTS = [*DOCUMENTS, SKIPPING]
CONTEXTS: list[Context] = ["window", "document", "both"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pylate")
    write_pylate("bert", folder)
    return folder


@pytest.fixture(scope="module")
def plain(original: Path) -> FastLaneModel:
    return read_late_interaction(original)


def stored(model: FastLaneModel, texts: list[str] = TEXTS) -> tuple[list[Any], list[Any]]:
    """The vectors of texts without context, as a store holds them, and their positions."""
    encoded = model.encode_document(texts, num_routes=None, output_value=None)
    masks = [one["attention_mask"] for one in encoded]
    vectors = [
        one["token_embeddings"][mask].numpy() for one, mask in zip(encoded, masks, strict=True)
    ]
    return vectors, [mask.nonzero()[:, 0].numpy() for mask in masks]


def vectors_of(index: FastLaneIndex) -> list[np.ndarray]:
    """The vectors that an index holds of each document, in the order of ids."""
    found = {one.id: one.views.vectors for part in index.parts for one in part.documents()}
    return [found[id] for id in index.ids]


def assert_alike(index: FastLaneIndex, expected: list[Any]) -> None:
    for one, other in zip(vectors_of(index), expected, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [write_pylate, write_multi_vector_encoder])
@pytest.mark.parametrize("context", CONTEXTS)
def test_stored_vectors_become_those_of_a_model_with_context(
    context: Context, write: Callable[[str, Path], None], tmp_path: Path
) -> None:
    write("bert", tmp_path)
    vectors, positions = stored(read_late_interaction(tmp_path))
    model = read_late_interaction(tmp_path, context=context)
    index = FastLaneIndex.from_embeddings(vectors, positions=positions, context=context)
    assert_alike(index, model.encode_document(TEXTS, num_routes=None))
    half = [one.astype(np.float16) for one in vectors]  # as stores hold them
    index = FastLaneIndex.from_embeddings(half, positions=positions, context=context)
    for one, other in zip(vectors_of(index), model.encode_document(TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_without_positions_a_window_takes_vectors_as_neighbours(original: Path) -> None:
    vectors, positions = stored(read_late_interaction(original))
    index = FastLaneIndex.from_embeddings(vectors, context="window", window_size=1.5)
    counted = FastLaneIndex.from_embeddings(
        vectors,
        positions=[range(len(one)) for one in vectors],
        context="window",
        window_size=1.5,
    )
    assert_alike(index, vectors_of(counted))
    gaps = FastLaneIndex.from_embeddings(
        vectors, positions=positions, context="window", window_size=1.5
    )
    assert_alike(index, [*vectors_of(gaps)[:-1], vectors_of(index)[-1]])
    assert not np.allclose(vectors_of(gaps)[-1], vectors_of(index)[-1], atol=1e-3)


@pytest.mark.parametrize("context", CONTEXTS)
def test_what_comes_later_is_mixed_alike_through_a_folder(
    context: Context, original: Path, plain: FastLaneModel, tmp_path: Path
) -> None:
    vectors, positions = stored(plain)
    model = read_late_interaction(original, context=context)
    expected = model.encode_document(TEXTS, num_routes=None)
    FastLaneIndex.from_embeddings(
        [vectors[0], vectors[1]], positions=positions[:2], context=context
    ).save(tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index")
    index.add(vectors[2:4], positions=positions[2:4])
    index.update([vectors[4]], ids=[0], positions=[positions[4]])
    index.upsert(vectors[5:7], ids=[1, 9], positions=positions[5:7])
    wanted = [expected[4], expected[5], expected[2], expected[3], expected[6]]
    assert_alike(index, wanted)
    index.save(tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index")
    index.compact()  # which mixes nothing a second time
    assert_alike(index, wanted)


def test_the_window_size_is_kept_in_the_folder(tmp_path: Path, plain: FastLaneModel) -> None:
    vectors, _ = stored(plain)
    whole = FastLaneIndex.from_embeddings(vectors, context="both", window_size=2)
    FastLaneIndex.from_embeddings(vectors[:3], context="both", window_size=2).save(tmp_path)
    index = FastLaneIndex.load(tmp_path)
    index.add(vectors[3:])
    assert_alike(index, vectors_of(whole))


def test_folders_written_before_have_no_context(tmp_path: Path, plain: FastLaneModel) -> None:
    vectors, _ = stored(plain)
    FastLaneIndex.from_embeddings(vectors[:1]).save(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_text())
    assert manifest.pop("context") is None
    del manifest["sha256"]
    (tmp_path / "index.json").write_text(json.dumps(with_checksum(manifest)))
    index = FastLaneIndex.load(tmp_path)
    index.add(vectors[1:])
    assert_alike(index, vectors)


# Texts


@pytest.mark.parametrize("context", CONTEXTS)
def test_texts_are_mixed_once_by_the_encoder_or_the_index(
    context: Context, original: Path, plain: FastLaneModel, tmp_path: Path
) -> None:
    vectors, positions = stored(plain)
    mixing = read_late_interaction(original, context=context)
    expected = mixing.encode_document(TEXTS, num_routes=None)
    for number, encoder in enumerate((plain, mixing, MultiVectorEncoder(str(original)))):
        index = FastLaneIndex.from_embeddings(
            vectors[:2], positions=positions[:2], encoder=encoder, context=context
        )
        index.add(TEXTS[2:4])
        index.save(tmp_path / str(number))
        rest = [CorpusDocument(f"d{n}", "", text) for n, text in enumerate(TEXTS[4:])]
        add_to_folder(index, tmp_path / str(number), rest)
        assert_alike(index, expected)


def test_an_encoder_of_another_context_adds_no_texts(original: Path, plain: FastLaneModel) -> None:
    vectors, _ = stored(plain)
    other = read_late_interaction(original, context="both", window_size=3.0)
    by_length = read_late_interaction(original, context="both")
    by_length.config.document_length_power = 1.0
    for encoder, context in ((other, "both"), (by_length, "both"), (by_length, "document")):
        index = FastLaneIndex.from_embeddings(vectors, encoder=encoder, context=context)
        before = len(index)
        with pytest.raises(ValueError, match="its encoder mixes another one into documents"):
            index.add(["read a file"])
        assert len(index) == before
        assert index.search("read a file", top_k=1)  # queries have no context
        index.add([vectors[0]])


def test_a_window_of_an_encoder_counts_only_where_it_has_one(original: Path) -> None:
    encoder = read_late_interaction(original, context="document", window_size=3.0)
    vectors, _ = stored(read_late_interaction(original))
    index = FastLaneIndex.from_embeddings(vectors, encoder=encoder, context="document")
    index.add(["read a file"], ids=["new"])
    assert_alike(
        index, [*vectors_of(index)[:-1], encoder.encode_document("read a file", num_routes=None)]
    )


def test_tokens_that_an_encoder_pools_are_not_mixed_afterwards(original: Path) -> None:
    pooling = read_late_interaction(original, document_num_routes=0.5)
    vectors, _ = stored(read_late_interaction(original))
    index = FastLaneIndex.from_embeddings(vectors, encoder=pooling, context="document")
    with pytest.raises(ValueError, match=r"all tokens of a document, got num_routes=0.5: set docu"):
        index.add(["read a file"])
    index.document_routes = None
    index.add(["read a file"])
    index.document_routes = 2
    with pytest.raises(ValueError, match="all tokens of a document, got num_routes=2"):
        index.add(["set"])
    mixing = read_late_interaction(original, document_num_routes=0.5, context="document")
    index = FastLaneIndex.from_embeddings(vectors, encoder=mixing, context="document")
    [new] = index.add(["read a file"])
    [views] = [one.views for part in index.parts for one in part.documents() if one.id == new]
    np.testing.assert_allclose(views.vectors, mixing.encode_document("read a file"), atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "text"}, "context must be 'window', 'document', 'both' or None, got 'text'"),
        ({"context": True}, "context must be .* or None, got True"),
        (
            {"window_size": 3.0},
            "applies to the contexts .* got 3.0 with context=None: leave it out",
        ),
        ({"context": "document", "window_size": 6}, "got 6 with context='document': leave it out"),
        ({"context": "window", "window_size": 0}, "window_size must be a number above 0, got 0"),
        ({"context": "both", "window_size": float("nan")}, "a number above 0, got nan"),
    ],
)
def test_a_context_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.from_embeddings([units(3, 0)], **options)


@pytest.mark.parametrize("length", [2.0, 0.9, 0.0])
def test_vectors_that_are_not_of_unit_length_take_no_context(length: float) -> None:
    good, bad = units(3, 0), units(3, 1)
    bad[1] *= length
    with pytest.raises(ValueError, match=f"document 'b' has a vector of length {length:.3g}"):
        FastLaneIndex.from_embeddings([good, bad], ids=["a", "b"], context="document")
    index = FastLaneIndex.from_embeddings([good], ids=["a"], context="document")
    with pytest.raises(ValueError, match=f"document 'b' has a vector of length {length:.3g}"):
        index.add([bad], ids=["b"])
    assert index.ids == ["a"]
    FastLaneIndex.from_embeddings([good, bad], ids=["a", "b"])


# An index that is there


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_an_index_gets_context_as_if_it_had_been_built_with_it(
    context: Context, storage: Any, original: Path, plain: FastLaneModel, tmp_path: Path
) -> None:
    vectors, positions = stored(plain)
    metadata = [{"number": number} for number in range(len(TEXTS))]
    index = FastLaneIndex.from_embeddings(
        vectors[1:],
        range(1, len(TEXTS)),
        positions=positions[1:],
        texts=TEXTS[1:],
        metadata=metadata[1:],
        storage=storage,
    )
    index.add(vectors[:1], [0], positions=positions[:1], texts=TEXTS[:1], metadata=metadata[:1])
    index.delete([1])
    before = vectors_of(index)
    encoder = read_late_interaction(original, context=context)
    mixed = index.with_context(context, encoder=encoder)
    kept = [*range(2, len(TEXTS)), 0]
    expected = encoder.encode_document([TEXTS[number] for number in kept], num_routes=None)
    for one, other in zip(vectors_of(mixed), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 if storage == "float32" else 2e-2)
    assert mixed.ids == kept
    assert mixed.select(where={"number": 5}) == [5]
    np.testing.assert_array_equal(np.concatenate(vectors_of(index)), np.concatenate(before))
    mixed.add(["read a file"], ids=["new"])
    mixed.save(tmp_path)
    again = FastLaneIndex.load(tmp_path, encoder)
    assert [hit.id for hit in again.search("read a file", 3)] == [
        hit.id for hit in mixed.search("read a file", 3)
    ]


@pytest.mark.parametrize("storage", ["int4", "pq"])
def test_coarsely_stored_vectors_take_context(storage: Any) -> None:
    vectors = [units(30, number) for number in range(300)]
    index = FastLaneIndex.from_embeddings(vectors, kind="ivf", storage=storage)
    mixed = index.with_context("document")
    exact = FastLaneIndex.from_embeddings(vectors, context="document")
    cosines = [
        (one * other).sum(axis=1) / np.linalg.norm(one, axis=1)
        for one, other in zip(vectors_of(mixed), vectors_of(exact), strict=True)
    ]
    assert np.concatenate(cosines).mean() > 0.7  # of random vectors, which compress badly
    assert mixed.vectors == index.vectors


def test_an_index_that_cannot_take_context_says_why(original: Path) -> None:
    vectors = [units(3, 0)]
    index = FastLaneIndex.from_embeddings(vectors, context="window")
    with pytest.raises(ValueError, match="mixes the context 'window' already"):
        index.with_context("document")
    index = FastLaneIndex.from_embeddings(vectors)
    with pytest.raises(ValueError, match="context must be a context to mix in, got None"):
        index.with_context(None)  # type: ignore[arg-type]
    long = FastLaneIndex.build(
        read_late_interaction(original), ["read a file and sort it " * 200], num_routes=None
    )
    with pytest.raises(ValueError, match="document 0 is a long text whose windows were encoded"):
        long.with_context("document")


def test_a_document_without_vectors_has_no_context() -> None:
    index = FastLaneIndex.from_embeddings(
        [units(2, 0), torch.empty(0, units(1, 0).shape[1])], context="both"
    )
    assert [len(one) for one in vectors_of(index)] == [2, 0]
