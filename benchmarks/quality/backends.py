"""What a backend's numbers cost: nDCG@10 over the dev sets, against torch in float32.

    python -m benchmarks.quality.backends --data data/eval \\
        --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev --limit-queries 300 \\
        --limit-documents 1000 --out benchmarks/results/backends_quality.json

Queries and documents are encoded by the same backend, and ranked by brute force. The first is the control.
"""

from __future__ import annotations

from fastlane_st import FastLaneEncoder

from ..common.encoding import (
    describe_checkpoint,
    encoder_by,
    fastlane_model,
    gains_over_control,
    rows_of_all_sets,
)
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default="fastlane-minilm")
    parser.add_argument("--backends", default="torch:float32,torch:bfloat16,onnx:float32,onnx:int8")
    options = parse(parser)
    plain = FastLaneEncoder(options.model, device="cpu")
    settings = {
        "checkpoint": describe_checkpoint(options.model, fastlane_model(plain)),
        "sets": options.sets,
        **limits(options),
    }
    results = SetResults(options.out, settings)
    names = options.backends.split(",")

    def measure(name: str) -> tuple[Facts, Rows]:
        encoder = encoder_by(name, options.model)
        rows = rows_of_all_sets(encoder, options)
        against = rows if name == names[0] else results.rows[names[0]]
        return gains_over_control(rows, against), rows

    measure_sets(results, names, measure)


if __name__ == "__main__":
    main()
