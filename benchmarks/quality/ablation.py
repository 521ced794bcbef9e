"""What each mechanism of the released model is worth: switched off one at a time, without training again.

    python -m benchmarks.quality.ablation --checkpoint fastlane-minilm --data data/eval \\
        --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 \\
        --limit-documents 1000 --states runs/states --out benchmarks/results/ablation.json

nDCG@10 with all views and with the router's routes, and the difference to `as_released` with its interval.
The backbone encodes each text once, and keeps its states in a folder. A mechanism in the JSON isn't measured
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


def settings(**values: float) -> Change:
    """Gives a change of fields of the configuration."""

    def change(model: FastLaneModel) -> None:
        for name, value in values.items():
            setattr(model.config, name, value)

    return change


def draw_logits(model: FastLaneModel) -> None:
    """Routes random tokens: the same for a text wherever it is asked for."""

    def drawn(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.frac(hidden_states.sum(dim=-1).abs() * 1e4)

    model.router.forward = drawn  # type: ignore[method-assign]  # taken back by `changed`


MECHANISMS: dict[str, Change] = {
    CONTROL: lambda model: None,
    "no window context": settings(window_context_weight=0.0),
    "no document context": settings(document_context_weight=0.0),
    "no context": settings(window_context_weight=0.0, document_context_weight=0.0),
    "documents: all tokens weigh alike": settings(document_length_power=0.0),
    "queries: all tokens weigh alike": settings(query_length_power=0.0),
    "no route context": settings(route_context_weight=0.0),
    "random tokens": draw_logits,
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
    """Applies a change to what comes after the backbone, and takes it back."""
    kept = model.config.view_settings
    with patch.object(model.router, "forward", model.router.forward):
        change(model)
        yield
    settings(**kept)(model)


if __name__ == "__main__":
    main()
