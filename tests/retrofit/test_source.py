"""Checkpoints of other libraries as FastLane models: the same token embeddings, and routes beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from torch import nn

from fastlane_st import FastLaneEncoder, FastLaneModel
from fastlane_st.retrofit.source import read_late_interaction
from tests.conftest import DOCUMENTS, QUERIES
from tests.support.late_interaction import (
    halve,
    token_dense,
    write_backbone,
    write_multi_vector_encoder,
    write_pylate,
    write_stanford,
)

FORMS: dict[str, Callable[[str, Path], None]] = {
    "MultiVectorEncoder": write_multi_vector_encoder,
    "expanded to at least 7": lambda family, folder: write_multi_vector_encoder(
        family, folder, query_expansion={"strategy": "min", "length": 7, "attend": True}
    ),
    "PyLate": write_pylate,
    "PyLate without expansion": lambda family, folder: write_pylate(
        family, folder, do_query_expansion=False
    ),
    "Stanford ColBERT": write_stanford,
}
LONG = " ".join(["sort a long list and read the file ?"] * 5)


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
@pytest.mark.parametrize("form", FORMS)
def test_token_embeddings_are_the_originals(form: str, family: str, tmp_path: Path) -> None:
    if form == "Stanford ColBERT" and family != "bert":
        pytest.skip("Stanford's format holds a BERT or a RoBERTa")
    FORMS[form](family, tmp_path / "original")
    original = MultiVectorEncoder(str(tmp_path / "original"), device="cpu")
    model = read_late_interaction(tmp_path / "original")
    model.save_pretrained(tmp_path / "routed")
    for routed in (
        model,
        FastLaneModel.from_pretrained(tmp_path / "routed"),
        FastLaneEncoder(tmp_path / "routed"),
    ):
        for side, texts in (("query", [*QUERIES, LONG]), ("document", [*DOCUMENTS, LONG, "? ?"])):
            expected = getattr(original, f"encode_{side}")(texts)
            given = getattr(routed, f"encode_{side}")(texts, num_routes=None)
            for one, other in zip(given, expected, strict=True):
                np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)
            for views in getattr(routed, f"encode_{side}")(texts, num_routes=1):
                assert views.shape == (1, 4)
                assert float(views.norm()) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["MultiVectorEncoder", "PyLate", "Stanford ColBERT"])
def test_half_precision_is_read_in_float32(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    FORMS[form]("bert", tmp_path / "original")
    halve(tmp_path / "original", dtype)
    in_float32 = {"dtype": torch.float32}
    original = MultiVectorEncoder(
        str(tmp_path / "original"), device="cpu", model_kwargs=in_float32
    ).float()
    model = read_late_interaction(tmp_path / "original")
    model.save_pretrained(tmp_path / "routed")
    for routed in (model, FastLaneModel.from_pretrained(tmp_path / "routed")):
        assert {weight.dtype for weight in routed.parameters()} == {torch.float32}
        for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
            expected = getattr(original, f"encode_{side}")(texts)
            given = getattr(routed, f"encode_{side}")(texts, num_routes=None)
            for one, other in zip(given, expected, strict=True):
                np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


def test_a_route_stays_what_it_was_as_long_as_its_layers_are_untrained(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path)
    plain, layered = (
        read_late_interaction(tmp_path),
        read_late_interaction(tmp_path, num_route_layers=2),
    )
    layered.router.load_state_dict(plain.router.state_dict())
    for num_routes in (1, 3, None):
        expected = plain.encode_query(QUERIES, num_routes=num_routes)
        for one, other in zip(
            layered.encode_query(QUERIES, num_routes=num_routes), expected, strict=True
        ):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def dense_model(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    write_backbone("bert", folder / "backbone")
    transformer = Transformer(str(folder / "backbone"))
    SentenceTransformer(modules=[transformer, Pooling(8)], device="cpu").save(str(folder))


def encoder_of(*heads: nn.Module) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_backbone("bert", folder / "backbone")
        modules = [Transformer(str(folder / "backbone")), *heads]
        MultiVectorEncoder(modules=modules, device="cpu").save(str(folder))

    return write


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a dense model": (dense_model, "is a dense model: it pools its tokens into one vector"),
    "a plain backbone": (
        lambda folder: write_backbone("bert", folder),
        "is no late-interaction checkpoint: it has neither a modules.json nor",
    ),
    "no unit length": (encoder_of(token_dense(8, 4)), "vectors that aren't of unit length"),
    "an activation": (
        encoder_of(token_dense(8, 4, activation_function=nn.Tanh()), Normalize("token_embeddings")),
        "has a Tanh, which a FastLaneModel can't hold",
    ),
    "a bias": (
        encoder_of(token_dense(8, 4, bias=True), Normalize("token_embeddings")),
        "has a projection with a bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_cannot_hold_is_named(case: str, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_late_interaction(tmp_path)
