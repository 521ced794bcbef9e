"""The second stage of a recipe: routes are trained to score as the model's own MaxSim, documents are frozen.

    python -m training.routes --model runs/fastlane-minilm --config training/fastlane-minilm.yaml \\
        --out runs/fastlane-minilm-routes --pairs 3000 steps=2000 label_weight=0.5

The pairs are those of the configuration's sources, at most so many of each; joined passages, whose file is
that of another source, are left out. Crops of the documents are queries as well. All of the work is
`fastlane_st.retrofit`'s, as is `--resume`. With `delta` in the configuration, OUT/delta gets the weights that
differ from the backbone's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import save_delta
from fastlane_st.retrofit.retrofit import retrofit
from fastlane_st.retrofit.training import RouteTraining

from .callbacks import module_of
from .command_line import exit_status
from .data import check_sources, draw_capped, read_rows, rename, texts_of
from .parse_config import parse, replace_values
from .runs import find_base
from .training_config import Source, TrainingConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints the report, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.routes", description="Train the routes of a trained model."
    )
    parser.add_argument("--model", required=True, help="checkpoint folder, or fastlane-minilm")
    parser.add_argument("--config", type=Path, required=True, help="names the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--pairs", type=int, default=3_000, help="drawn from each source")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="a setting of fastlane_st.retrofit.training.RouteTraining",
    )
    options = parser.parse_args(arguments)
    return exit_status("routes", lambda: run(options), "with --resume it goes on")


def run(options: argparse.Namespace) -> None:
    """Trains as the options say."""
    config = TrainingConfig.load(options.config, [])
    training = parse(RouteTraining, replace_values({}, options.overrides))
    sources = config.sources
    check_sources(sources)
    pairs = list(drawn_pairs(sources, options.pairs, training.seed))
    print(f"{len(pairs):,} pairs of {len(sources)} sources", flush=True)
    report = retrofit(
        options.model,
        options.out,
        pairs=pairs,
        max_documents=len(pairs),
        max_queries=2 * len(pairs),
        training=training,
        resume=options.resume,
        show_progress_bar=True,
    )
    print(report.render())
    if config.delta:
        encoder = FastLaneEncoder(options.out)
        save_delta(module_of(encoder).model, find_base(config, encoder), options.out / "delta")


def drawn_pairs(sources: Sequence[Source], most: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yields at most `most` pairs of each source; a file that several sources read counts once."""
    seen: set[object] = set()
    for source in sources:
        place = source.path or (source.dataset, source.subset, source.split)
        if place in seen:
            continue
        seen.add(place)
        rows = [texts_of(rename(row, source.columns))[:2] for _, row in read_rows(source)]
        yield from ((query, positive) for query, positive in draw_capped(rows, most, seed))


if __name__ == "__main__":
    sys.exit(main())
