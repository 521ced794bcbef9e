"""FastLaneModel: what one forward pass gives, and routing of texts."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from fastlane_st import FastLaneEncoder, FastLaneModel
from fastlane_st.modeling import modeling_fastlane
from fastlane_st.modeling.modeling_fastlane import parts_of_batch
from fastlane_st.modeling.projection_fastlane import FastLaneOutput
from fastlane_st.modeling.routing_fastlane import Task, unit
from tests.conftest import DOCUMENTS, QUERIES


def loop_similarity(query: torch.Tensor, document: torch.Tensor) -> float:
    return sum(max(float(q @ d) for d in document) for q in query)


def test_forward_gives_unit_embeddings_and_a_logit_for_every_token(
    any_model: FastLaneModel,
) -> None:
    features = any_model.tokenize(QUERIES, "query")
    output = any_model(**features)
    batch, tokens = features["input_ids"].shape
    assert output.token_embeddings.shape == (batch, tokens, 4)
    assert output.router_logits.shape == (batch, tokens)
    torch.testing.assert_close(output.token_embeddings.norm(dim=-1), torch.ones(batch, tokens))


def test_special_tokens_and_padding_are_not_views(any_model: FastLaneModel) -> None:
    # Each of our words is one token; the tokenizer puts one special token on either side.
    lengths = [len(views) for views in any_model.encode_query(QUERIES, num_routes=None)]
    assert lengths == [6, 3, 8, 1]  # the third is cut at 10 tokens, special ones included


def test_special_tokens_are_views_where_the_configuration_says_so(checkpoint: Path) -> None:
    model = FastLaneModel.from_pretrained(checkpoint, use_special_tokens=True)
    assert [len(views) for views in model.encode_query(QUERIES, num_routes=None)] == [8, 5, 10, 3]


def test_a_text_without_words_keeps_its_special_tokens(any_model: FastLaneModel) -> None:
    everything, one = (any_model.encode_document(["", "  "], num_routes=k) for k in (None, 1))
    assert [len(views) for views in everything] == [2, 2]
    assert [len(views) for views in one] == [1, 1]


def test_the_routes_are_the_highest_logits(any_model: FastLaneModel) -> None:
    for text in QUERIES:
        output = any_model(**any_model.tokenize([text], "query"))
        logits = output.router_logits[0].tolist()
        allowed = output.token_mask[0].nonzero().flatten().tolist()
        allowed.sort(key=lambda i: -logits[i])
        for num_routes in (1, 2, 3):
            expected = sorted(allowed[:num_routes])
            kept = any_model.encode_query(text, num_routes=num_routes, output_value=None)
            assert kept["attention_mask"].nonzero().flatten().tolist() == expected
    assert "router_logits" not in any_model.encode_document(QUERIES[0], output_value=None)


def loop_views_in_context(
    model: FastLaneModel, states: torch.Tensor, task: Task
) -> list[torch.Tensor]:
    """One token at a time: projected; a document's is mixed with its window and its text."""
    config = model.config
    linear = model.projection.linear
    directions = [unit(linear(state / state.norm())) for state in states.detach()]
    if task == "query":
        return directions
    weights = states.norm(dim=-1) ** config.document_length_power
    made = []
    for here, direction in enumerate(directions):
        around, text = torch.zeros_like(direction), torch.zeros_like(direction)
        for there, other in enumerate(directions):
            text = text + weights[there] * other
            closeness = exp(-0.5 * ((here - there) / config.window_size) ** 2)
            around = around + closeness * weights[there] * other
        view = (
            direction
            + config.window_context_weight * around / around.norm()
            + config.document_context_weight * text / text.norm()
        )
        made.append(view / view.norm())
    return made


def loop_routed_views(model: FastLaneModel, states: torch.Tensor, places: list[int]) -> list[Any]:
    """One route at a time: the tokens that it stands for, their mean, its view and its length."""
    weight = model.config.route_context_weight
    weights = states.norm(dim=-1) ** model.config.query_length_power
    directions = [state / state.norm() for state in states.detach()]
    owners = [
        i if i in places else max(places, key=lambda p: float(directions[i] @ directions[p]))
        for i in range(len(directions))
    ]
    tokens = loop_views_in_context(model, states, "query")
    made = []
    for place in places:
        members = [i for i in range(len(tokens)) if owners[i] == place]
        mean = sum(tokens[i] * weights[i] for i in members)
        view = tokens[place] + weight * mean / mean.norm()
        length = len(members) * len(places) / len(tokens)
        made.append(view / view.norm() * length)
    return made


@pytest.mark.parametrize("num_routes", [1, 3, 0.5])
def test_a_documents_tokens_in_context_are_pooled(
    any_model: FastLaneModel, num_routes: float
) -> None:
    for text in DOCUMENTS:
        output = any_model(**any_model.tokenize([text], "document"), task="document")
        mask = output.token_mask[0]
        states = output.last_hidden_state[0][mask]
        tokens = torch.stack(loop_views_in_context(any_model, states, "document"))
        factor = 1 / num_routes if num_routes < 1 else max(1, len(tokens) / (num_routes + 0.01))
        [expected] = HierarchicalTokenPooling(factor, num_protected_tokens=0).pool([tokens])
        features = any_model.encode_document(text, num_routes=num_routes, output_value=None)
        kept = features["attention_mask"]
        views = any_model.encode_document(text, num_routes=num_routes)
        assert torch.equal(views, features["token_embeddings"][kept])
        assert len(views) == len(expected)
        order = (views @ expected.T).argmax(dim=1)  # theirs come in the order of clusters
        torch.testing.assert_close(views, expected[order], rtol=1e-4, atol=1e-5)
        places = kept.nonzero().flatten()
        closeness = features["unrouted_embeddings"] @ views.T
        nearest = closeness[mask].amax(dim=0)  # a view stands at its nearest token
        torch.testing.assert_close(closeness[places].diagonal(), nearest, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_routes", [1, 2, 4])
def test_a_route_speaks_for_the_tokens_that_are_closest_to_it(
    any_model: FastLaneModel, num_routes: int
) -> None:
    for text in QUERIES:
        routed: torch.Tensor = any_model.encode_query(text, num_routes=num_routes)
        features = any_model.encode_query(text, num_routes=num_routes, output_value=None)
        output = any_model(**any_model.tokenize([text], "query"))
        mask = output.token_mask[0]
        kept = features["attention_mask"][mask].nonzero().flatten().tolist()
        states = output.last_hidden_state[0][mask]
        expected = torch.stack(loop_routed_views(any_model, states, kept))
        torch.testing.assert_close(routed, expected, rtol=1e-4, atol=1e-5)
        assert float(routed.norm(dim=-1).sum()) == pytest.approx(len(routed), rel=1e-5)


def test_a_token_that_is_not_routed_shows_its_view_in_place_of_the_route(
    any_model: FastLaneModel,
) -> None:
    text = "read a file"
    shown = any_model.encode_query(text, num_routes=1, output_value=None)
    output = any_model(**any_model.tokenize([text], "query"))
    for place in output.token_mask[0].nonzero().flatten().tolist():
        other = torch.zeros_like(output.token_mask)
        other[0, place] = True
        views = any_model.projection.routed(output, other)
        torch.testing.assert_close(shown["token_embeddings"][place], views[0, place])


def test_more_routes_than_tokens_give_all_tokens(any_model: FastLaneModel) -> None:
    many, full = (any_model.encode_query(QUERIES, num_routes=k) for k in (100, None))
    for one, other in zip(many, full, strict=True):
        torch.testing.assert_close(one, other)


def test_documents_keep_a_number_or_a_fraction(any_model: FastLaneModel) -> None:
    full = [len(views) for views in any_model.encode_document(DOCUMENTS, num_routes=None)]
    half = [len(views) for views in any_model.encode_document(DOCUMENTS, num_routes=0.5)]
    two = [len(views) for views in any_model.encode_document(DOCUMENTS, num_routes=2)]
    assert half == [max(1, count // 2) for count in full]
    assert two == [min(2, count) for count in full]


def test_the_configuration_decides_where_a_call_does_not(checkpoint: Path) -> None:
    model = FastLaneModel.from_pretrained(checkpoint, query_num_routes=1, document_num_routes=0.5)
    assert {len(views) for views in model.encode_query(QUERIES)} == {1}
    assert len(model.encode_document("sort a list of number")) == 2
    assert len(model.encode_query("sort a list of number", num_routes=None)) == 5


@pytest.mark.parametrize("num_routes", [0, -2, 0.5, True])
def test_a_wrong_number_of_query_routes_is_refused(model: FastLaneModel, num_routes: float) -> None:
    with pytest.raises(
        ValueError, match=f"num_routes must be a positive integer or None, got {num_routes}"
    ):
        model.encode_query(QUERIES, num_routes=num_routes)


def test_evaluation_is_deterministic_and_indifferent_to_the_batch(any_model: FastLaneModel) -> None:
    any_model.train()
    first = any_model.encode_query(QUERIES, num_routes=2)
    again = any_model.encode_query(QUERIES, num_routes=2)
    single = any_model.encode_query(QUERIES, num_routes=2, batch_size=1)
    for one, other, alone in zip(first, again, single, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone)


def test_numpy_output_and_a_single_text(model: FastLaneModel) -> None:
    one = model.encode_query("read a file", num_routes=2, convert_to_numpy=True)
    assert isinstance(one, np.ndarray)
    assert one.dtype == np.float32
    assert one.shape == (2, 4)
    assert model.encode_query([]) == []


def test_similarity_is_the_sum_of_each_views_best_match(any_model: FastLaneModel) -> None:
    queries = any_model.encode_query(QUERIES, num_routes=3)
    documents = any_model.encode_document(DOCUMENTS)
    scores = any_model.similarity(queries, documents)
    expected = [[loop_similarity(query, document) for document in documents] for query in queries]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_prompts_and_lengths_come_from_the_configuration(checkpoint: Path) -> None:
    settings = {"query_prompt": "python ", "query_length": 5}
    model = FastLaneModel.from_pretrained(checkpoint, **settings)
    [ids] = model.tokenize(["sort the list in time"], "query")["input_ids"]
    words = model.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert words == ["[CLS]", "python", "sort", "the", "[SEP]"]


def test_half_precision_gives_numbers(any_model: FastLaneModel) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = deepcopy(any_model).to(dtype)
        for num_routes in (1, 2, None):
            for views in model.encode_query(QUERIES, num_routes=num_routes):
                assert views.dtype == dtype
                assert torch.isfinite(views).all()


def test_without_a_return_dict_the_output_is_a_tuple(
    any_model: FastLaneModel, checkpoint: Path
) -> None:
    features = any_model.tokenize(QUERIES, "query")
    output = any_model(**features)
    for given in (None, True):
        assert isinstance(any_model(**features, return_dict=given), FastLaneOutput)
    found = any_model(**features, return_dict=False)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found, output.to_tuple())
    configured = FastLaneModel.from_pretrained(checkpoint, return_dict=False)
    assert isinstance(configured(**configured.tokenize(QUERIES, "query")), tuple)
    assert len(configured.encode_query(QUERIES)) == len(QUERIES)


def test_inputs_that_no_backbone_takes_are_refused(any_model: FastLaneModel) -> None:
    ids = any_model.tokenize(QUERIES, "query")["input_ids"]
    for given in ({}, {"inputs_embeds": torch.zeros(1, 3, 8)}):
        with pytest.raises(ValueError, match="takes input_ids and no inputs_embeds"):
            any_model(**given)
    with pytest.raises(ValueError, match="takes input_ids and no inputs_embeds"):
        any_model(input_ids=ids, inputs_embeds=torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match=r"input_ids must be \(texts, tokens\), got \(3,\)"):
        any_model(input_ids=ids[0, :3])
    with pytest.raises(ValueError, match='task must be "query" or "document", got \'quary\''):
        any_model.encode(QUERIES, task="quary")


def test_texts_beyond_the_backbones_positions_are_refused(any_model: FastLaneModel) -> None:
    # XLM-RoBERTa leaves its first two of 40 unused, ModernBERT has rotary positions.
    most = {"bert": 40, "xlm-roberta": 38, "modernbert": None}[
        any_model.config.backbone_config.model_type
    ]
    assert any_model.max_positions == most
    if most is None:
        assert any_model(input_ids=torch.full((1, 60), 7)).token_embeddings.shape == (1, 60, 4)
        return
    any_model(input_ids=torch.full((1, most), 7))
    with pytest.raises(ValueError, match=f"must have at most {most} tokens, .* got {most + 1}: lo"):
        any_model(input_ids=torch.full((1, most + 1), 7))


@pytest.mark.parametrize("name", ["query_length", "document_length"])
def test_a_configured_length_beyond_the_positions_is_an_error_of_ours(
    name: str, checkpoint: Path
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint, **{name: 1024})
    encode = getattr(model, f"encode_{name.partition('_')[0]}")
    assert len(encode(QUERIES)) == len(QUERIES)
    with pytest.raises(
        ValueError, match="at most 40 tokens, the backbone's positions, got 502: low"
    ):
        encode("set " * 500)


def test_a_batch_is_parted_into_texts_of_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_fastlane, "CPU_TOKENS", 6)
    lengths = torch.tensor([2, 3, 7, 2, 1, 2, 2, 0])
    seen = torch.arange(8) < lengths[:, None]
    rows = [(part.tolist(), length) for part, length in parts_of_batch(seen)]
    assert rows == [([2], 7), ([1, 0], 3), ([3, 5, 6], 2), ([4, 7], 1)]
    on_the_left = seen[:2].flip(-1)  # the padding is before the text, and stays
    assert [length for _, length in parts_of_batch(on_the_left)] == [8, 8]


@pytest.mark.parametrize("tokens", [1, 12, 10**6])
def test_a_cpu_gives_what_a_whole_batch_gives(
    any_model: FastLaneModel, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    def encoded() -> list[torch.Tensor]:
        queries = any_model.encode_query(QUERIES, num_routes=2)
        return [*queries, *any_model.encode_document(DOCUMENTS, num_routes=None)]

    expected = encoded()
    lengths: list[tuple[int, ...]] = []
    backbone = any_model.backbone.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        lengths.append(tuple(kwargs["input_ids"].shape))
        return backbone(*args, **kwargs)

    monkeypatch.setattr(modeling_fastlane, "CPU_TOKENS", tokens)
    monkeypatch.setattr(any_model.backbone, "forward", forward)
    for one, other in zip(encoded(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert all(rows == 1 or rows * length <= tokens for rows, length in lengths)
    assert (len(lengths) == 2) == (tokens == 10**6)


def test_a_batch_stays_whole_where_more_than_states_is_asked_for(any_model: FastLaneModel) -> None:
    features = any_model.tokenize(QUERIES, "query")
    with torch.no_grad():
        output = any_model.eval()(**features, output_hidden_states=True)
    assert output.hidden_states[-1].shape == output.last_hidden_state.shape


# FSDP


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A process group of this process alone."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_every_parameter_has_a_dimension(any_model: FastLaneModel) -> None:
    assert [name for name, each in any_model.named_parameters() if not each.ndim] == []


@pytest.mark.parametrize("num_routes", [1, 3, None])
def test_a_sharded_model_encodes_the_same(
    num_routes: int | None, any_model: FastLaneModel, one_process: DeviceMesh
) -> None:
    sharded = deepcopy(any_model)
    fully_shard(sharded, mesh=one_process)
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        expected = getattr(any_model, f"encode_{side}")(texts, num_routes=num_routes)
        found = getattr(sharded, f"encode_{side}")(texts, num_routes=num_routes)
        torch.testing.assert_close(found, expected)


def test_a_sharded_encoder_trains_its_router(checkpoint: Path, one_process: DeviceMesh) -> None:
    encoder = FastLaneEncoder(checkpoint)
    features = encoder.preprocess(QUERIES, task="query")
    fully_shard(encoder, mesh=one_process)
    found = encoder.train()(features, task="query", num_routes=2)
    found["token_embeddings"].sum().backward()
    gradient = encoder[0].model.router.logit.weight.grad
    assert gradient.abs().sum() > 0
