"""TokenRouter: what its logits may depend on."""

from __future__ import annotations

import torch

from fastlane_st import FastLaneConfig
from fastlane_st.modeling.router_fastlane import RouteLayers, TokenRouter

ALL = torch.tensor([[True, True, True]])


def tiny_router() -> TokenRouter:
    torch.manual_seed(0)
    backbone = {"model_type": "bert", "hidden_size": 8}
    config = FastLaneConfig(backbone_config=backbone, router_dim=8, router_num_heads=2)
    return TokenRouter(config)


def test_padding_does_not_change_the_logits() -> None:
    router, states = tiny_router(), torch.randn(1, 3, 8)
    padded = torch.cat([states, torch.full((1, 2, 8), 7.0)], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    short, long = router(states, mask[:, :3]), router(padded, mask)
    torch.testing.assert_close(long[:, :3], short)


def test_a_token_is_scored_by_what_stands_around_it() -> None:
    router, states = tiny_router(), torch.randn(1, 3, 8)
    changed = states.clone()
    changed[0, 2] += 1
    before, after = (router(some, ALL) for some in (states, changed))
    assert not torch.allclose(before[0, 0], after[0, 0])


def test_the_router_is_attention_and_a_linear_logit_worked_out_by_hand() -> None:
    router, states = tiny_router(), torch.randn(1, 3, 8)
    projected = states[0] @ router.attention_input.weight.T + router.attention_input.bias
    heads = [projected[:, 4 * number : 4 * number + 4] for number in range(6)]
    attended = [
        (heads[number] @ heads[2 + number].T / 4**0.5).softmax(dim=-1) @ heads[4 + number]
        for number in range(2)
    ]
    mixed = projected[:, 16:] + router.attention_output(torch.cat(attended, dim=-1))
    torch.testing.assert_close(router(states, ALL)[0], router.logit(router.norm(mixed))[:, 0])


def test_route_layers_at_some_tokens_give_what_they_give_at_all() -> None:
    torch.manual_seed(1)
    backbone = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}
    layers = RouteLayers(
        FastLaneConfig(backbone_config=backbone, embedding_dim=4, num_route_layers=2)
    )
    torch.nn.init.normal_(layers.output)
    states, mask = torch.randn(2, 3, 8), torch.tensor([[True, True, True], [True, True, False]])
    tokens = torch.tensor([[2, 0], [1, 0]])
    everywhere, some = layers(states, mask), layers(states, mask, tokens)
    chosen = torch.zeros(2, 3, dtype=torch.bool).scatter(1, tokens, True)
    assert everywhere[chosen].abs().min() > 0
    torch.testing.assert_close(some[chosen], everywhere[chosen])
    assert not some[~chosen].any()
