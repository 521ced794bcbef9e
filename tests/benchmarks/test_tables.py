"""Tables of the report, and the numbers that README takes from them."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import tables
from tests.support.benchmarks import BENCHMARKS, ROOT, run_command

README_ROWS = {
    "one route": "router_1",
    "two routes": "router_2",
    "four": "router_4",
    "four routes": "router_4",
    "all views": "full",
    "all token vectors": "full",
}
"""Settings by the names that README gives them, without emphasis."""


def test_a_table_has_a_row_for_each_setting_that_all_sets_have() -> None:
    means = {"full": {"ndcg@10": 0.5}, "router_1": {"ndcg@10": 0.25}, "first": {"ndcg@10": 0.1}}
    other = {"full": {"ndcg@10": 0.75}, "router_1": {"ndcg@10": 0.75}}
    quality = {
        "sets": {
            "one": {"queries": 1500, "means": means},
            "two:dev": {"queries": 7, "means": other},
        },
        "over_sets": {
            "ndcg@10": {"full": 0.625, "router_1": 0.5},
            "ratio_to_full": {"full": 1.0, "router_1": 0.8},
        },
    }
    assert tables.quality_table(quality).splitlines() == [
        "| nDCG@10 (queries) | one (1,500) | two (7) | mean | of all views |",
        "| --- | --- | --- | --- | --- |",
        "| **one route** | 0.250 | 0.750 | 0.500 | 80.0% |",
        "| all views | 0.500 | 0.750 | 0.625 | 100.0% |",
    ]


def test_the_fastest_of_the_good_settings_speaks_for_an_index() -> None:
    settings = [
        {"ndcg@10": ndcg, "queries_per_second_median": rate, "search": {"effort": rate}}
        for ndcg, rate in ((0.500, 10), (0.498, 40), (0.497, 90), (0.300, 200))
    ]
    best = tables.fastest_good(settings)
    assert tables.search_settings(best["search"]) == "(effort 40)"


def test_readme_has_the_means_of_the_committed_results() -> None:
    over = json.loads((BENCHMARKS / "results" / "quality.json").read_text())["over_sets"]
    found = set()
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        label, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        setting = "dense_checkpoint" if label.startswith("dense twin") else README_ROWS.get(label)
        if setting is not None and cells:
            mean, share = cells[0], cells[1].removesuffix("%")
            assert float(mean) == pytest.approx(over["ndcg@10"][setting], abs=0.0005), label
            ratio = 100 * over["ratio_to_full"][setting]
            assert float(share) == pytest.approx(ratio, abs=0.05), label
            found.add(setting)
    assert found == {*README_ROWS.values(), "dense_checkpoint"}


def test_the_command_prints_the_table_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for name, table in (
        ("quality", tables.quality_table),
        ("engines", tables.engines_table),
        ("scale", tables.scale_table),
    ):
        path = BENCHMARKS / "results" / f"{name}.json"
        run_command("report.tables", path)
        assert capsys.readouterr().out == table(json.loads(path.read_text())) + "\n"
