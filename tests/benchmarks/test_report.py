"""The committed report is what the committed JSON says."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import report  # noqa: E402

from fastlane_st.modeling.vector_index_fastlane import EXPECTED_RECALL  # noqa: E402


def test_the_report_is_drawn_from_the_committed_results() -> None:
    found = report.read(report.RESULTS)
    assert report.REPORT.read_text("utf-8") == report.render(found)
    assert set(report.SECTIONS) <= set(found)


def test_what_was_not_measured_is_left_out() -> None:
    text = report.render({"soak": report.read(report.RESULTS)["soak"]})
    assert "## An index folder under faults" in text
    assert "## Quality" not in text
    assert "`python benchmarks/soak.py" in text


def test_every_plot_has_its_source_and_every_link_leads_somewhere() -> None:
    for _, name in report.DRAWN.values():
        assert (report.RESULTS / name).exists()
    for link in ("](../docs/", "](results/"):
        for part in report.REPORT.read_text("utf-8").split(link)[1:]:
            path = link[2:] + part.split(")")[0]
            assert (BENCHMARKS / path).exists(), path


def test_what_an_index_is_said_to_find_was_measured() -> None:
    measured = report.read(report.RESULTS)["recall"]["recall"]
    assert {
        kind: {storage: round(share, 2) for storage, share in shares.items()}
        for kind, shares in measured.items()
    } == EXPECTED_RECALL
