"""TokenRouter: an untrained one by hand, and what its scores may depend on."""

from __future__ import annotations

import math

import torch

from fastlane_st import FastLaneConfig
from fastlane_st.modeling.router_fastlane import TokenRouter, centrality

ALL = torch.tensor([[True, True, True]])


def tiny_router() -> TokenRouter:
    torch.manual_seed(0)
    backbone = {"model_type": "bert", "hidden_size": 8}
    config = FastLaneConfig(backbone_config=backbone, router_dim=8, router_num_heads=2)
    return TokenRouter(config)


def test_padding_does_not_change_the_scores() -> None:
    router, states = tiny_router(), torch.randn(1, 3, 8)
    padded = torch.cat([states, torch.full((1, 2, 8), 7.0)], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    short = router(states, mask[:, :3], mask[:, :3], "query")
    long = router(padded, mask, mask, "query")
    for one, other in zip(short, long, strict=True):
        torch.testing.assert_close(other[:, :3], one)


def test_a_token_is_scored_by_what_stands_around_it() -> None:
    router, states = tiny_router(), torch.randn(1, 3, 8)
    changed = states.clone()
    changed[0, 2] += 1
    before, after = (router(some, ALL, ALL, "query") for some in (states, changed))
    for one, other in zip(before, after, strict=True):
        assert not torch.allclose(one[0, 0], other[0, 0])


def test_centrality_is_the_cosine_to_the_salient_mean() -> None:
    states = torch.tensor([[[2.0, 0.0], [0.0, 7.0], [-1.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    found = centrality(states, torch.tensor([[math.log(3), 0.0, 9.0]]), mask)
    torch.testing.assert_close(found, torch.tensor([[3.0, 1.0, -3.0]]) / 10**0.5)


def silence(router: TokenRouter) -> TokenRouter:
    """A router whose attention says nothing, as an untrained one's nearly does."""
    for part in (router.logit, router.query_salience.learned, router.document_salience.learned):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    return router


def test_an_untrained_router_prefers_the_least_central_token() -> None:
    router = silence(tiny_router())
    states = torch.zeros(1, 3, 8)
    states[0, 0, 0], states[0, 1, 1], states[0, 2, :2] = 3, 1, torch.tensor([6.0, 8.0])
    logits, salience = router(states, ALL, ALL, "query")
    torch.testing.assert_close(salience, 2 * torch.tensor([[3.0, 1.0, 10.0]]).log())
    # The mean points to (69, 81): 100 (.6, .8) + 9 (1, 0) + 1 (0, 1).
    expected = torch.tensor([[69.0, 81.0, 0.6 * 69 + 0.8 * 81]]) / (69**2 + 81**2) ** 0.5
    torch.testing.assert_close(logits, -10 * expected)


def test_a_documents_tokens_have_a_salience_of_their_own_and_no_logits() -> None:
    router, states = tiny_router(), torch.tensor([3.0, 1.0, 10.0])[None, :, None].repeat(1, 1, 8)
    logits, learned = router(states, ALL, ALL, "document")
    assert logits is None
    assert not torch.allclose(learned, router(states, ALL, ALL, "query")[1])
    _, salience = silence(router)(states, ALL, ALL, "document")
    torch.testing.assert_close(salience, states[..., 0].log() + 0.5 * math.log(8))
    router.document_salience.norm_weight.data.zero_()
    assert router(states, ALL, ALL, "document")[1].tolist() == [[0, 0, 0]]
