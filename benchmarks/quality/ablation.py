"""What each mechanism of the released model is worth: switched off one at a time, without training again.

    python -m benchmarks.quality.ablation --checkpoint fastlane-minilm --data data/eval \\
        --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 \\
        --limit-documents 3000 --states runs/states --out benchmarks/results/ablation.json

nDCG@10 with all views and with the router's routes, and the difference to `as_released` with its interval.
The backbone encodes each text once, and keeps its states in a folder. A mechanism in the JSON isn't measured
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from fastlane_st import FastLaneEncoder
from fastlane_st.modeling.modeling_fastlane import FastLaneModel

from ..common.encoding import (
    describe_checkpoint,
    fastlane_model,
    gains_over_control,
    rows_of_all_sets,
)
from ..common.known_states import with_known_states
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

CONTROL = "as_released"
Change = Callable[[FastLaneModel], None]


def zero(*parameters: str) -> Change:
    """Gives a change that sets parameters to 0."""

    def change(model: FastLaneModel) -> None:
        named = dict(model.named_parameters())
        for name in parameters:
            named[name].data.zero_()

    return change


def route_spread(value: float) -> Change:
    """Sets how far routes are kept apart."""

    def change(model: FastLaneModel) -> None:
        model.config.route_spread = value

    return change


def draw_logits(model: FastLaneModel) -> None:
    """Routes random tokens: the same for a text wherever it is asked for."""

    def drawn(mixed: Tensor) -> Tensor:
        return torch.frac(mixed.sum(dim=-1, keepdim=True).abs() * 1e4)

    zero("router.centrality_weight")(model)
    logit_of(model).forward = drawn


def logit_of(model: FastLaneModel) -> Any:
    """The linear layer that gives the router's logits."""
    return model.router.logit


def salience(side: str, *parts: str) -> Change:
    """Sets parts of a side's salience to 0."""
    names = {"learned": ("learned.weight", "learned.bias"), "norm": ("norm_weight",)}
    return zero(*(f"router.{side}_salience.{name}" for part in parts for name in names[part]))


def all_of(*changes: Change) -> Change:
    """Gives a change that makes several, one after the other."""

    def change(model: FastLaneModel) -> None:
        for one in changes:
            one(model)

    return change


CENTRALITY_ALONE = zero("router.logit.weight", "router.logit.bias")
LEAN = all_of(salience("document", "learned"), salience("query", "learned"), route_spread(0.0))
WINDOW = "projection.window_context_weight"
DOCUMENT = "projection.document_context_weight"
MECHANISMS: dict[str, Change] = {
    CONTROL: lambda model: None,
    "no window context": zero(WINDOW),
    "no document context": zero(DOCUMENT),
    "no context": zero(WINDOW, DOCUMENT),
    "documents: salience by norm alone": salience("document", "learned"),
    "documents: equal salience": salience("document", "learned", "norm"),
    "queries: salience by norm alone": salience("query", "learned"),
    "queries: equal salience": salience("query", "learned", "norm"),
    "no route context": zero("projection.route_context_weight"),
    "centrality alone": CENTRALITY_ALONE,
    "no centrality": zero("router.centrality_weight"),
    "random tokens": draw_logits,
    "no spread": route_spread(0.0),
    "lean: salience by norm alone and no spread": LEAN,
    "lean without centrality": all_of(LEAN, zero("router.centrality_weight")),
    "lean with centrality alone": all_of(LEAN, CENTRALITY_ALONE),
    "lean with random tokens": all_of(LEAN, draw_logits),
}


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--checkpoint", default="fastlane-minilm")
    parser.add_argument("--states", type=Path, required=True, help="folder to keep states in")
    parser.add_argument("--mechanisms", default=",".join(MECHANISMS), help=f"{CONTROL} first")
    options = parse(parser)
    encoder = FastLaneEncoder(options.checkpoint, device="cpu")
    model = fastlane_model(encoder)
    checkpoint = describe_checkpoint(options.checkpoint, model)
    settings = {"checkpoint": checkpoint, "sets": options.sets, **limits(options)}
    results = SetResults(options.out, settings)
    states = with_known_states(model, options.states)

    def measure(name: str) -> tuple[Facts, Rows]:
        with changed(model, MECHANISMS[name]):
            rows = rows_of_all_sets(encoder, options)
        states.flush()
        return gains_over_control(rows, rows if name == CONTROL else results.rows[CONTROL]), rows

    measure_sets(results, options.mechanisms.split(","), measure)


@contextmanager
def changed(model: FastLaneModel, change: Change) -> Iterator[None]:
    """Applies a change to the parts after the backbone, and takes it back."""
    heads = (model.projection, model.router)
    kept = [{name: value.clone() for name, value in head.state_dict().items()} for head in heads]
    spread, logit = model.config.route_spread, logit_of(model)
    with patch.object(logit, "forward", logit.forward):
        change(model)
        yield
    model.config.route_spread = spread
    for head, state in zip(heads, kept, strict=True):
        head.load_state_dict(state)


if __name__ == "__main__":
    main()
