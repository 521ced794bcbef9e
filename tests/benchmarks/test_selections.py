"""What the router chooses: its numbers by hand, and the command on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.quality import selections
from benchmarks.quality.selections import Selection, same_as_by_words, share_of_variance
from fastlane_st import FastLaneEncoder
from tests.support.benchmarks import run_on_one_set


def choice(tokens: str, *logits: float) -> Selection:
    named = tokens.split()
    return Selection(tokens, named, np.array(logits), np.eye(len(named)))


def test_a_token_that_always_has_the_same_logit_tells_all_of_it() -> None:
    choices = [choice("a b", 1, 3)] * 10
    assert share_of_variance([one.tokens for one in choices], choices) == pytest.approx(1)


def test_groups_by_chance_tell_nothing() -> None:
    # Each has five times +1 and five times -1: variance 20/18 within, 20/19 over all.
    choices = [choice("a b", 1, -1)] * 5 + [choice("a b", -1, 1)] * 5
    share = share_of_variance([one.tokens for one in choices], choices)
    assert share == pytest.approx(1 - (20 / 18) / (20 / 19))


def test_rare_groups_do_not_count() -> None:
    choices = [choice("a b", 1, 3)] * 9
    assert share_of_variance([one.tokens for one in choices], choices) is None


def test_a_list_of_words_knows_only_the_other_queries() -> None:
    # Elsewhere "a" is above "b" in the first two queries; in the third both others say so, too.
    choices = [choice("a b", 2, 0), choice("a b", 2, 0), choice("a b", 0, 2)]
    # For the first: a's mean elsewhere is (1 - 1) / 2 = 0, as is b's: the earlier of equals, a.
    assert same_as_by_words(choices) == pytest.approx(2 / 3)
    assert same_as_by_words([choice("a b", 0, 2)]) == 0  # nothing is known: the first


def test_attention_is_what_the_router_mixes(checkpoint: Path) -> None:
    model = FastLaneEncoder(checkpoint)[0].model
    router = model.router
    states = torch.randn(2, 5, model.config.hidden_size)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = selections.router_attention(model, states, mask)
    query, key, _ = router.heads(states)
    everything = torch.eye(5).expand(2, router.num_heads, 5, 5)
    mixed = scaled_dot_product_attention(
        query, key, everything, attn_mask=mask.bool()[:, None, None, :]
    )
    torch.testing.assert_close(found, mixed.mean(1))
    assert (found[1, :, 3:] == 0).all()


def test_the_command_tells_of_every_set(checkpoint: Path, tmp_path: Path) -> None:
    found = run_on_one_set("quality.selections", checkpoint, tmp_path)
    assert found["sets"]["one"]["queries"] == found["queries"]
    for example in found["examples"]:
        views = len(example["tokens"])
        assert np.array(example["attention"]).shape == (views, views)
        assert example["route"] == int(np.argmax(example["logits"]))
