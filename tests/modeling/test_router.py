"""TokenRouter: what its logits may depend on."""

from __future__ import annotations

import torch

from fastlane_st import FastLaneConfig
from fastlane_st.modeling.router_fastlane import TokenRouter

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
