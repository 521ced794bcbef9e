"""Speed and memory of training, beside Sentence Transformers' own trainer.

    python benchmarks/training_speed.py --config training/fastlane-minilm.yaml --steps 8 \\
        --out benchmarks/results/training_speed.json

Each setting trains a few steps of the configuration in a process of its own, so that its peak memory
is its own; rounds over the settings let the machine's drift hit all of them. A round's number is the
median of its steps, batching and tokenising included, without the first two; reported are the median
of the rounds with the smallest and the largest, and the ratio of pairs per second to the reference's:
above 1 is faster.

The reference, `st_trainer`, is Sentence Transformers' MultiVectorEncoderTrainer with our loss, our
model, the same batches and arguments, without our checks and log. `st_trainer_st_loss` has its loss as
well, MaxSim with all views: the difference is what the routed parts of our loss cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import environment

HERE = Path(__file__).resolve().parent

REFERENCE = "st_trainer"
SETTINGS = (
    REFERENCE,
    "st_trainer_st_loss",
    "configured",
    "float32_sdpa",
    "gradient_caching",
    "gradient_accumulation",
)
WARM_UP = 2  # steps in which memory is first asked for and kernels are chosen


def main() -> None:
    options = parse()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.settings}
    for number in range(options.rounds):
        for name in options.settings:
            rounds[name].append(measure_apart(name, options))
            print(f"round {number + 1}: {name} {round_seconds(rounds[name][-1]):.3f} s a step")
        results = {
            "command": shlex.join(["python", *sys.argv]),
            "environment": environment(),
            "steps": options.steps,
            "warm_up_steps": WARM_UP,
            "rounds": number + 1,
            "reference": REFERENCE,
            "settings": summarise(rounds),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(table(results["settings"])))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file of a run")
    parser.add_argument("--steps", type=int, default=8, help=f"the first {WARM_UP} don't count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="with commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the file's")
    options = parser.parse_args()
    chosen = set(options.settings.split(","))
    options.settings = [name for name in SETTINGS if name in chosen]
    if chosen - set(SETTINGS) or REFERENCE not in chosen:
        parser.error(f"--settings must be {REFERENCE} and some of {', '.join(SETTINGS[1:])}")
    if options.steps <= WARM_UP or options.rounds < 1:
        parser.error(f"--steps must be above {WARM_UP} and --rounds at least 1")
    return options


def measure_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `training_setting.py` finds, in a process of its own.

    On Linux a process starts with its parent's peak: this one imports less than that one needs.
    """
    path = os.pathsep.join([str(HERE.parent / "training"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        common = ["--config", options.config, "--steps", str(options.steps), "--out", str(out)]
        process = subprocess.run(
            [sys.executable, str(HERE / "training_setting.py"), name, *options.overrides, *common],
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{process.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def summarise(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The JSON of all settings."""
    references = [pairs_per_second(one) for one in rounds[REFERENCE]]
    found = {}
    for name, runs in rounds.items():
        rates = [pairs_per_second(one) for one in runs]
        ratios = [rate / reference for rate, reference in zip(rates, references, strict=True)]
        facts = {key: runs[0][key] for key in runs[0] if key not in ("seconds", "peak_memory")}
        found[name] = {
            **facts,
            "seconds_per_step": spread([round_seconds(one) for one in runs]),
            "pairs_per_second": spread(rates),
            "peak_memory_mib": spread([one["peak_memory"] / 2**20 for one in runs]),
            "ratio": {
                "of_medians": statistics.median(rates) / statistics.median(references),
                **{"min": min(ratios), "max": max(ratios)},  # within a round
            },
            "step_seconds": [one["seconds"] for one in runs],
        }
    return found


def round_seconds(run: dict[str, Any]) -> float:
    """The median seconds of a step, without those of the warm-up."""
    seconds: list[float] = run["seconds"][WARM_UP:]
    return statistics.median(seconds)


def pairs_per_second(run: dict[str, Any]) -> float:
    pairs: int = run["batch_size"] * run["gradient_accumulation"]
    return pairs / round_seconds(run)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(settings: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each setting, the reference first."""
    lines = [
        f"{'setting':22} {'numbers':17} {'s a step (range)':>22} {'pairs/s':>8} {'MiB':>7} ratio"
    ]
    for name, found in settings.items():
        seconds = found["seconds_per_step"]
        span = f"{seconds['median']:.3f} ({seconds['min']:.3f}–{seconds['max']:.3f})"
        numbers = f"{found['dtype']} {found['attention']}"
        rate, memory = (found[key]["median"] for key in ("pairs_per_second", "peak_memory_mib"))
        ratio = found["ratio"]["of_medians"]
        lines.append(f"{name:22} {numbers:17} {span:>22} {rate:8.1f} {memory:7.0f} {ratio:5.2f}")
    return lines


if __name__ == "__main__":
    main()
