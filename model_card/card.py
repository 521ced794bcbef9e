"""Renders the model card from a template, a checkpoint's configuration and measured results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from huggingface_hub import EvalResult, ModelCard, ModelCardData

if TYPE_CHECKING:
    from ..modeling.configuration_fastlane import FastLaneConfig

TEMPLATE = Path(__file__).with_name("template.md")
CODE_HEADING = "## Source files"
TAGS = ["sentence-transformers", "multi-vector", "late-interaction", "colbert", "fastlane"]


class ResultRow(TypedDict):
    """One measured number: `metric` on a split of a collection, at a number of routes."""

    dataset: str
    split: str
    num_routes: int | None
    metric: str
    value: float


class Results(TypedDict):
    """A committed results file: the command that wrote it, and its numbers."""

    command: str
    rows: list[ResultRow]


def render_card(
    config: FastLaneConfig,
    results: Results | None = None,
    *,
    model_id: str = "your-name/fastlane",
    name: str = "FastLane encoder",
    license: str | None = "apache-2.0",
) -> str:
    """Renders the card as Markdown with its metadata block.

    Args:
        config: The checkpoint's configuration.
        results: Measured results. Without them the card says that there are none.
        model_id: Hub name or folder that the snippets load.
        name: Heading of the card.
        license: Hub identifier of the licence; None leaves it open.
    """
    rows = results["rows"] if results else []
    data = ModelCardData(
        language="en",
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
        command=results["command"] if results else None,
        config=config,
        model_id=model_id,
        name=name,
        rows=rows,
        summary=summary,
    )
    return str(card)


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
