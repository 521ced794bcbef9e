"""Renders the model card from a template, a checkpoint's configuration and measured results."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from typing_extensions import NotRequired

if TYPE_CHECKING:
    from ..modeling.configuration_fastlane import FastLaneConfig

TEMPLATE = Path(__file__).with_name("template.md")
CODE_HEADING = "## Source files"
PLOT_WIDTH = 50
"""Characters."""
TAGS = ["sentence-transformers", "multi-vector", "late-interaction", "colbert", "fastlane"]


class ResultRow(TypedDict):
    """One measured number: `metric` on a split of a collection, at a number of routes."""

    dataset: str
    split: str
    num_routes: int | None
    metric: str
    value: float


class Gain(TypedDict):
    """A difference of mean nDCG@10 over the collections, with its 95 % interval."""

    mean: float
    low: float
    high: float


class BackendRow(TypedDict):
    """How fast a backend encodes, and its speed in relation to the first one's."""

    backend: str
    documents_per_second: float
    query_ms: float


class Encoding(TypedDict):
    """What encoding was measured with, and each backend."""

    command: str
    processor: str
    rows: list[BackendRow]


class Results(TypedDict):
    """A committed results file: the command that wrote it, and its numbers.

    Keys:
        command: Of the quality.
        rows: By collection and number of routes.
        unseen: Collections that no training pair came from.
        others: What else ranks: its name, and its value by collection.
        router: What the router's token gains over a random one, with one route.
        encoding: Speeds.
    """

    command: str
    rows: list[ResultRow]
    unseen: NotRequired[list[str]]
    others: NotRequired[dict[str, dict[str, float]]]
    router: NotRequired[Gain]
    encoding: NotRequired[Encoding]


class Table(NamedTuple):
    """A table of one metric: a column for each setting, a line for each collection, and their means.

    `plot` are the lines of a picture: each setting's mean over the collections.
    """

    metric: str
    columns: list[str]
    lines: list[tuple[str, list[str]]]
    plot: list[str]


def render_card(
    config: FastLaneConfig,
    results: Results | None = None,
    *,
    model_id: str = "your-name/fastlane",
    name: str = "FastLane encoder",
    license: str | None = None,
    language: str | None = None,
) -> str:
    """Renders the card as Markdown with its metadata block.

    Args:
        config: The checkpoint's configuration.
        results: Measured results. Without them the card says that there are none.
        model_id: Hub name or folder that the snippets load.
        name: Heading of the card.
        license: Hub identifier of the licence; None leaves it open, as whoever trains has to choose it.
        language: Of the training data, as the Hub names it; None leaves it open.
    """
    rows = results["rows"] if results else []
    data = ModelCardData(
        language=language,
        license=license,
        base_model=config.base_model,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        model_name=name if rows else None,
        eval_results=[_eval_result(row) for row in rows] or None,
    )
    trained = config.query_num_routes is not None
    summary = (
        "It answers with few routes by default."
        if trained
        else "Its router has not been trained yet: keep `num_routes=None`, plain late interaction."
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        base_model=config.base_model,
        config=config,
        model_id=model_id,
        name=name,
        results=results,
        summary=summary,
        tables=quality_tables(results) if results else [],
    )
    return str(card)


def quality_tables(results: Results) -> list[Table]:
    """Gives a table for each metric: collections by number of routes, means, and what routes keep."""
    metrics = dict.fromkeys(row["metric"] for row in results["rows"])
    return [quality_table(results, metric, is_first=not n) for n, metric in enumerate(metrics)]


def quality_table(results: Results, metric: str, is_first: bool) -> Table:
    """Gives the table of one metric; only the first one has `others`, which are of that metric."""
    unseen = results.get("unseen", [])
    columns: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        if row["metric"] == metric:
            name = str(row["num_routes"] or "all")
            columns.setdefault(name, {})[row["dataset"]] = row["value"]
    if is_first:
        columns |= results.get("others", {})
    every = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [
        (
            f"{name}{' *' if name in unseen else ''}",
            [f"{column[name]:.4f}" if name in column else "" for column in columns.values()],
        )
        for name in every
    ]
    if len(every) > 1:
        lines.append(("**mean**", _means(columns, every)))
    if len(set(every) & {*unseen}) > 1:
        lines.append(
            ("**mean of \\***", _means(columns, [name for name in every if name in unseen]))
        )
    whole = columns.get("all", {})
    if len(columns) > 1 and whole.keys() == {*every}:
        shares = [
            f"{mean(column.values()) / mean(whole.values()):.1%}"
            if column.keys() == whole.keys()
            else ""
            for column in columns.values()
        ]
        lines.append(("of all token vectors", shares))
    return Table(metric, list(columns), lines, dot_plot(columns, every))


def dot_plot(columns: dict[str, dict[str, float]], names: list[str]) -> list[str]:
    """Draws the means of settings over the collections `names` in characters: copies of a card lose files."""
    means = {
        setting: mean(column[name] for name in names)
        for setting, column in columns.items()
        if {*names} <= column.keys()
    }
    if not means:
        return []
    low = math.floor(100 * min(means.values())) / 100
    high = max(math.ceil(100 * max(means.values())) / 100, low + 0.01)
    width = max(map(len, means))
    axis = f"{low:.2f}{high:>{PLOT_WIDTH - 4}.2f}"
    lines = [f"{'':{width}}  {axis}"]
    for setting, value in means.items():
        place = round((PLOT_WIDTH - 1) * (value - low) / (high - low))
        lines.append(
            f"{setting:{width}}  {'·' * place}●{'·' * (PLOT_WIDTH - 1 - place)}  {value:.4f}"
        )
    return lines


def _means(columns: dict[str, dict[str, float]], names: list[str]) -> list[str]:
    return [
        f"{mean(column[name] for name in names):.4f}" if {*names} <= column.keys() else ""
        for column in columns.values()
    ]


def pin_code(card: str, repository: str, commit: str) -> str:
    """Adds to a card where the source files are, and the commit to the calls that load them.

    An earlier pin is replaced.
    """
    card = unpin_code(card)
    for loader, argument in (
        ("AutoModel.from_pretrained", f'code_revision="{commit}"'),
        ("MultiVectorEncoder", f'model_kwargs={{"code_revision": "{commit}"}}'),
    ):
        call = rf"({re.escape(loader)}\([^()]*trust_remote_code=True)"
        card = re.sub(call, lambda found, pin=argument: f"{found[1]}, {pin}", card)  # type: ignore[misc]
    return (
        f"{card.rstrip()}\n\n{CODE_HEADING}\n\n"
        f"This repository holds no source files: they are in [{repository}](https://hf.co/{repository}), "
        f"and those of commit `{commit}` belong to this checkpoint. The commit can't be read from "
        "`config.json`, so pass `code_revision` as above; without it the newest code runs.\n"
    )


def unpin_code(card: str) -> str:
    """Removes the section and the arguments that `pin_code` has added."""
    card = re.sub(rf"\n+{CODE_HEADING}\n.*?(?=\n## |\Z)", "\n", card, flags=re.DOTALL)
    pins = r', (code_revision="[0-9a-f]{40}"|model_kwargs=\{"code_revision": "[0-9a-f]{40}"\})'
    return re.sub(pins, "", card)


def _eval_result(row: ResultRow) -> EvalResult:
    routes = row["num_routes"] or "all"
    return EvalResult(
        task_type="retrieval",
        dataset_type=row["dataset"],
        dataset_name=row["dataset"],
        dataset_config=f"num_routes={routes}",
        dataset_split=row["split"],
        metric_type=row["metric"],
        metric_value=row["value"],
    )
