"""A new model over a plain backbone: what it keeps, its projection, and the settings it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.new_model import from_backbone, principal_components
from tests.conftest import DOCUMENTS, QUERIES


def test_the_backbone_keeps_its_weights_and_loses_its_pooler(
    backbone_folder: Callable[[str], Path],
) -> None:
    from transformers import AutoModel

    folder = backbone_folder("bert")
    model = from_backbone(folder, embedding_dim=4, calibration_texts=DOCUMENTS)
    expected = AutoModel.from_pretrained(folder).state_dict()
    own = model.backbone.state_dict()
    assert set(expected) - set(own) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_a_full_projection_keeps_every_inner_product(
    backbone_folder: Callable[[str], Path],
) -> None:
    folder = backbone_folder("bert")
    model = from_backbone(
        folder,
        embedding_dim=8,
        window_context_weight=0,
        document_context_weight=0,
        calibration_texts=DOCUMENTS,
    )
    [features] = model.encode_document([DOCUMENTS[0]], output_value=None)
    output = model(**model.tokenize([DOCUMENTS[0]], "document"))
    states = torch.nn.functional.normalize(output.last_hidden_state[0], dim=-1)
    embeddings = features["token_embeddings"]
    torch.testing.assert_close(embeddings @ embeddings.T, states @ states.T)


def test_principal_components_of_three_vectors_worked_out_by_hand() -> None:
    # Unit vectors x, x and y: the second moment is diag(2, 1), so x comes first.
    states = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]])
    assert principal_components(states, 2).tolist() == [[1, 0], [0, 1]]
    assert principal_components(states, 1).tolist() == [[1, 0]]


def test_too_few_calibration_tokens_are_refused() -> None:
    with pytest.raises(
        ValueError, match="4 components need at least as many calibration tokens, got 2"
    ):
        principal_components(torch.zeros(2, 8), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"embedding_dim": 9},
            "embedding_dim must be at most the backbone's hidden size, 8, got 9",
        ),
        (
            {"document_length": 33},
            "document_length must be at most the backbone's positions, 32, got 33",
        ),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"router_num_heads": 3}, "router_dim must be a multiple of router_num_heads, got 8 and 3"),
        ({"query_num_routes": 0}, "num_routes must be a positive integer or None, got 0"),
        (
            {"window_size": 0},
            "window_size must be above 0, got 0",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    backbone_folder: Callable[[str], Path], settings: dict[str, int], message: str
) -> None:
    defaults = {"embedding_dim": 4, "router_dim": 8, "query_length": 9, "document_length": 12}
    with pytest.raises(ValueError, match=message):
        from_backbone(backbone_folder("bert"), **{**defaults, **settings})


@pytest.mark.parametrize("build", [from_backbone, FastLaneEncoder.from_backbone])
def test_a_misspelt_setting_is_named_with_the_nearest_before_anything_is_loaded(
    build: Callable[..., object],
) -> None:
    message = "FastLaneConfig has no field 'embedding_dims'; the nearest is 'embedding_dim'"
    with pytest.raises(ValueError, match=message):
        build("no/such-backbone", embedding_dims=64)
    with pytest.raises(ValueError, match="no field 'backbone_config'"):
        build("no/such-backbone", backbone_config={"model_type": "bert"})


@pytest.mark.parametrize("query_num_routes", [None, 1, 3])
def test_default_routes_are_the_checkpoints_in_every_encoding(
    query_num_routes: int | None, backbone_folder: Callable[[str], Path]
) -> None:
    encoder = untrained(backbone_folder("bert"), query_num_routes)
    for model in (encoder, encoder[0].model):
        for one, other in zip(
            model.encode_query(QUERIES),
            model.encode_query(QUERIES, num_routes=query_num_routes),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("query_num_routes", [None, 1, 3])
def test_default_routes_are_the_checkpoints_in_every_search(
    query_num_routes: int | None, backbone_folder: Callable[[str], Path]
) -> None:
    encoder = untrained(backbone_folder("bert"), query_num_routes)
    for index in (encoder.build_index(DOCUMENTS), encoder[0].model.build_index(DOCUMENTS)):
        found = index.search(QUERIES, top_k=3)
        assert found == index.search(QUERIES, top_k=3, num_routes=query_num_routes)


def untrained(folder: Path, query_num_routes: int | None) -> FastLaneEncoder:
    return FastLaneEncoder.from_backbone(
        folder,
        embedding_dim=4,
        calibration_texts=DOCUMENTS,
        query_num_routes=query_num_routes,
    )
