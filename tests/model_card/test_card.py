"""The model card: Hugging Face's parser reads it, its snippets run, its numbers are the file's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from fastlane_st import FastLaneConfig, FastLaneEncoder
from fastlane_st.model_card.card import ResultRow, Results, pin_code, render_card, unpin_code

RESULTS: Results = {
    "command": "python benchmarks/quality.py",
    "rows": [
        {"dataset": "nq", "split": "test", "num_routes": 1, "metric": "ndcg_at_10", "value": 0.5},
        {
            "dataset": "nq",
            "split": "test",
            "num_routes": None,
            "metric": "ndcg_at_10",
            "value": 0.6,
        },
    ],
}


def config(**settings: object) -> FastLaneConfig:
    return FastLaneConfig(backbone_config={"model_type": "bert"}, base_model="org/base", **settings)


def test_the_hubs_parser_reads_licence_base_model_and_tags() -> None:
    card = ModelCard(render_card(config()))
    assert card.data.license is None  # whoever trains chooses it
    assert card.data.language is None
    assert "English" not in str(card)
    assert card.data.base_model == "org/base"
    tags = {"sentence-transformers", "multi-vector", "late-interaction"}
    assert set(card.data.tags or []) >= tags
    assert card.data.library_name == "sentence-transformers"
    assert not card.data.eval_results


def test_measured_results_stand_in_the_table_and_in_the_metadata() -> None:
    card = ModelCard(render_card(config(query_num_routes=1), RESULTS, name="fastlane-test"))
    assert "| ndcg_at_10 | 1 | all |\n| --- | --- | --- |\n| nq | 0.5000 | 0.6000 |" in card.text
    assert "| of all token vectors | 83.3% | 100.0% |" in card.text
    assert "Measured with `python benchmarks/quality.py`." in card.text
    picture = card.text.split("```text\n")[1].split("```")[0].splitlines()
    assert picture[1:] == [
        f"     0.50{'0.60':>46}",
        f"1    ●{'·' * 49}  0.5000",
        f"all  {'·' * 49}●  0.6000",
    ]
    found = {
        (result.dataset_config, result.metric_value) for result in card.data.eval_results or []
    }
    assert found == {("num_routes=1", 0.5), ("num_routes=all", 0.6)}


def test_the_card_says_what_is_unseen_what_the_router_is_worth_and_how_fast_it_encodes() -> None:
    rows = [
        ResultRow(dataset=name, split="test", num_routes=k, metric="ndcg_at_10", value=value)
        for name, values in {"nq": (0.5, 0.6), "fiqa": (0.3, 0.5), "scifact": (0.2, 0.4)}.items()
        for k, value in zip((1, None), values, strict=True)
    ]
    results: Results = {
        "command": "measure",
        "rows": rows,
        "unseen": ["fiqa", "scifact"],
        "others": {"a random token": {"nq": 0.4, "fiqa": 0.3, "scifact": 0.2}},
        "router": {"mean": 0.0333, "low": 0.01, "high": 0.05},
        "encoding": {
            "command": "time it",
            "processor": "a laptop",
            "rows": [{"backend": "torch", "documents_per_second": 48.2, "query_ms": 7.31}],
        },
    }
    card = ModelCard(render_card(config(query_num_routes=1), results, name="fastlane-test"))
    for line in (
        "| ndcg_at_10 | 1 | all | a random token |",
        "| fiqa * | 0.3000 | 0.5000 | 0.3000 |",
        "| **mean** | 0.3333 | 0.5000 | 0.3000 |",
        "| **mean of \\*** | 0.2500 | 0.4500 | 0.2500 |",
        "| of all token vectors | 66.7% | 100.0% | 60.0% |",
        "\\* No training pair came from this collection.",
        "one route, +0.0333 nDCG@10",
        "(+0.0100 to +0.0500, 95 % interval)",
        "| torch | 48 | 7.3 |",
        "Encoding, measured with `time it` on a laptop:",
    ):
        assert line in card.text, line
    assert "\n\n\n" not in card.text
    assert len(card.data.eval_results or []) == len(rows)


def test_without_results_the_card_says_so() -> None:
    text = render_card(config())
    assert "None have been measured for this checkpoint." in text
    assert "Its router has not been trained yet" in text


SNIPPETS = """
import contextlib, io, sys
for number, snippet in enumerate(sys.argv[1:]):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, f"snippet {number}", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip(), f"snippet {number} prints nothing"
    assert number == 2 or "fastlane_st" not in sys.modules, f"snippet {number} needs the package"
"""


@pytest.mark.slow
def test_each_of_the_cards_snippets_runs(checkpoint: Path, tmp_path: Path) -> None:
    card = render_card(FastLaneConfig.from_pretrained(checkpoint), model_id=str(checkpoint))
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(snippets) == 3
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS, *snippets],  # in one process: torch is imported once
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_saving_keeps_the_card_that_a_checkpoint_came_with(
    checkpoint: Path, tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.save_pretrained(tmp_path / "same")
    same = (tmp_path / "same" / "README.md").read_text("utf-8")
    assert same == (checkpoint / "README.md").read_text("utf-8")
    encoder.model_card_data.add_tags("generated_from_trainer")
    encoder[0].config.query_num_routes = 1
    encoder.save_pretrained(tmp_path / "trained")
    assert "It answers with few routes" in (tmp_path / "trained" / "README.md").read_text("utf-8")


def test_a_pin_is_shown_in_both_calls_replaced_and_taken_away() -> None:
    card = render_card(config())
    first, second = "1" * 40, "2" * 40
    pinned = pin_code(card, "org/base", first)
    snippets = re.findall(r"```python\n(.*?)```", pinned, flags=re.DOTALL)
    for snippet in snippets:
        compile(snippet, "card", "exec")
    assert [first in snippet for snippet in snippets] == [True, True, False]
    assert pin_code(pinned, "org/other", second) == pin_code(card, "org/other", second)
    assert unpin_code(pinned) == f"{card}\n"
    assert unpin_code(card) == card
