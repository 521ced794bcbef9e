"""What the router chooses: is it the query's own choice, and does it follow what a token is worth?

    python -m benchmarks.quality.selections --data data/eval --sets cranfield,wikiqa:test \\
        --dtype bfloat16 --out benchmarks/results/selections.json

Over the queries of all sets: the share of the variance of logits, centred per query, that the token alone
explains, or its place alone; how often a list of words, each with its mean logit in the other queries,
chooses the router's token; and the rank correlation of logits with the attention that a token gets. For each
set: the rank correlation of logits with the margin by which a token as the one route finds a relevant
document. Examples are queries with the same token, which is the route in half of them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.diagnostics.diagnose import summarise
from fastlane_st.diagnostics.routed_query import (
    RankCorrelation,
    mean_rank_correlation,
    routed_query,
)
from fastlane_st.diagnostics.token_kinds import token_kind
from fastlane_st.evaluation.scored_query import score_queries
from fastlane_st.evaluation.scoring import encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT
from fastlane_st.modeling.modeling_fastlane import FastLaneModel

from ..common.encoding import autocast, describe_checkpoint, encode_set, fastlane_model, read_set
from ..common.environment import command, environment
from ..common.options import limits, parse, sets_parser
from ..common.results import write_results

Floats = npt.NDArray[np.float64]
OFTEN = 10  # occurrences, below which a token or place is left out
PLACES = 10  # parts of a query, first to last
EXAMPLES = 4


@dataclass(frozen=True)
class Selection:
    """One query as its router sees it.

    Attributes:
        query: The text.
        tokens: The V tokens that have a view.
        logits: The router's logits, (V,) float.
        attention: The router's attention, (V, V) float, the mean over heads: a row's token attends to the
            columns' tokens. Attention to special tokens is left out.
    """

    query: str
    tokens: list[str]
    logits: Floats
    attention: Floats

    @property
    def route(self) -> int:
        return int(self.logits.argmax())

    @property
    def relative(self) -> Floats:
        """The logits minus their mean: only differences within a query decide."""
        centred: Floats = self.logits - self.logits.mean()
        return centred

    def to_dict(self) -> dict[str, Any]:
        lists = {name: getattr(self, name).round(4).tolist() for name in ("logits", "attention")}
        return {"query": self.query, "tokens": self.tokens, "route": self.route, **lists}


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        **limits(options),
    }
    collections = {name: read_set(name, options) for name in options.sets.split(",")}
    texts = [text for one in collections.values() for text in one.queries.values()]
    choices = [one for one in selections(fastlane_model(encoder), texts) if len(one.tokens) > 1]
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "settings": settings,
        "queries": len(choices),
        "share_of_variance": {
            "token": share_of_variance([one.tokens for one in choices], choices),
            "place": share_of_variance([places(len(one.tokens)) for one in choices], choices),
        },
        "same_as_by_words": same_as_by_words(choices),
        "same_by_chance": float(np.mean([1 / len(one.tokens) for one in choices])),
        "attention": as_json(
            mean_rank_correlation((one.logits, one.attention.mean(axis=0)) for one in choices)
        ),
        "examples": [one.to_dict() for one in with_one_token(choices)],
        "sets": {},
    }
    for name, collection in collections.items():
        found["sets"][name] = usefulness(collection, encoder, options)
        print(name, found["sets"][name], flush=True)
        write_results(options.out, found)


def selections(model: FastLaneModel, texts: Sequence[str]) -> Iterator[Selection]:
    """Each query's views with logits and attention, in float32."""
    model.eval()
    left = iter(texts)
    with torch.inference_mode():
        for features, output in model.forward_batches(texts, "query", 32, False):
            weights = router_attention(model, output.last_hidden_state, features["attention_mask"])
            assert output.router_logits is not None
            rows = (features["input_ids"], output.token_mask, output.router_logits, weights)
            for ids, mask, logits, attention in zip(*rows, strict=True):
                tokens = model.tokenizer.convert_ids_to_tokens(ids[mask].tolist())
                assert isinstance(tokens, list)
                yield Selection(
                    next(left),
                    tokens,
                    logits[mask].double().numpy(),
                    attention[mask][:, mask].double().numpy(),
                )


def router_attention(
    model: FastLaneModel, states: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """(B, T, T) float: the weights of `TokenRouter`'s self-attention, the mean over heads."""
    query, key, _ = model.router.heads(states)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~attention_mask.bool()[:, None, None, :], -torch.inf)
    weights: torch.Tensor = scores.softmax(dim=-1).mean(dim=1)
    return weights


def places(count: int) -> list[int]:
    """The part of a query that each of its `count` views is in."""
    return (np.arange(count) * PLACES // count).tolist()


def share_of_variance(
    groups: Sequence[Sequence[Any]], choices: Sequence[Selection]
) -> float | None:
    """The share of the relative logits' variance that groups explain; rare groups are left out.

    One minus the variance within groups over the total variance, each unbiased, so that it is 0 for
    groups by chance. None if every group is rare.
    """
    named = [group for one in groups for group in one]
    values = np.concatenate([one.relative for one in choices])
    counts = Counter(named)
    is_often = np.array([counts[group] >= OFTEN for group in named])
    if not is_often.any():
        return None
    values = values[is_often]
    _, codes = np.unique(np.array(named)[is_often], return_inverse=True)
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / sizes
    within = np.square(values - means[codes]).sum() / (len(values) - len(sizes))
    return float(1 - within / values.var(ddof=1))


def same_as_by_words(choices: Sequence[Selection]) -> float:
    """The share of queries in which the token with the best mean logit elsewhere is the route.

    A token that is in no other query counts as the mean of all.
    """
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one in choices:
        counts.update(one.tokens)
        for token, value in zip(one.tokens, one.relative, strict=True):
            sums[token] += value
    same = []
    for one in choices:
        own, occurrences = Counter[str](), Counter(one.tokens)
        for token, value in zip(one.tokens, one.relative, strict=True):
            own[token] += value
        others = [counts[token] - occurrences[token] for token in one.tokens]
        means = [
            (sums[token] - own[token]) / count if count else 0.0
            for token, count in zip(one.tokens, others, strict=True)
        ]
        same.append(int(np.argmax(means)) == one.route)
    return float(np.mean(same))


def with_one_token(choices: Sequence[Selection]) -> list[Selection]:
    """Queries with the content token that is most often the route in some and not in others."""
    routed: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for one in choices:
        routed[one.tokens[one.route]] += 1
        passed.update({token for token in one.tokens if token != one.tokens[one.route]})
    content = [token for token in routed if token_kind(token) == "content"]
    if not content:
        return []
    shared = max(content, key=lambda token: (min(routed[token], passed[token]), token))
    kept: dict[bool, list[Selection]] = {True: [], False: []}
    for one in choices:
        if shared in one.tokens:
            kept[one.tokens[one.route] == shared].append(one)
    return [one for group in kept.values() for one in group[: EXAMPLES // 2]]


def usefulness(
    collection: Collection, encoder: FastLaneEncoder, options: argparse.Namespace
) -> dict[str, Any]:
    """Whether the router's scores follow the worth of tokens on a set."""
    texts = list(collection.queries.values())
    with autocast(options, encoder.device.type):
        queries = encode_queries(encoder, texts, num_routes=(1,))
    documents = encode_set(collection, encoder, options, np.float16)
    scored = score_queries(collection, queries, documents)
    routed = [routed_query(encoder, *pair) for pair in zip(texts, scored, strict=True)]
    found = summarise(collection.name, routed)
    return {
        "queries": found.num_choices,
        "rank_correlation": as_json(found.rank_correlation),
        "as_good_as_the_oracle": found.oracle_agreement,
        "as_good_by_chance": found.oracle_agreement_by_chance,
    }


def as_json(correlation: RankCorrelation | None) -> dict[str, Any] | None:
    """A correlation as the JSON holds it."""
    return None if correlation is None else asdict(correlation)


if __name__ == "__main__":
    main()
