"""Checkpoints over one backbone, compared: all views, each number of routes, and what one gains on the first.

    python -m benchmarks.quality.checkpoints --checkpoints fastlane-minilm,runs/other \\
        --data data/eval --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev \\
        --limit-queries 300 --limit-documents 3000 --states runs/states --out runs/checkpoints.json

nDCG@10 by brute force. The first checkpoint is the control. A backbone encodes each text once, and keeps its
states in a folder, so that more checkpoints over it cost little. A checkpoint in the JSON, by the name of its
folder, isn't measured again.
"""

from __future__ import annotations

from pathlib import Path

from fastlane_st import FastLaneEncoder

from ..common.encoding import (
    describe_checkpoint,
    fastlane_model,
    gains_over_control,
    rows_of_all_sets,
)
from ..common.known_states import with_known_states
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--checkpoints", required=True, help="names or folders, with commas")
    parser.add_argument("--states", type=Path, required=True, help="folder to keep states in")
    options = parse(parser)
    results = SetResults(options.out, {"sets": options.sets, **limits(options)})
    folders = {Path(name).name: name for name in options.checkpoints.split(",")}
    control, *_ = folders

    def measure(name: str) -> tuple[Facts, Rows]:
        encoder = FastLaneEncoder(folders[name], device="cpu")
        model = fastlane_model(encoder)
        facts = {"checkpoint": describe_checkpoint(name, model)}
        states = with_known_states(model, options.states)
        rows = rows_of_all_sets(encoder, options)
        states.flush()
        against = rows if name == control else results.rows[control]
        return {**facts, **gains_over_control(rows, against)}, rows

    measure_sets(results, folders, measure)


if __name__ == "__main__":
    main()
