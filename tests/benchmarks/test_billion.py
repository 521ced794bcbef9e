"""benchmarks.report.billion: the tables of docs/scale.md are what it prints."""

from __future__ import annotations

import pytest

from tests.support.benchmarks import ROOT, run_command


def test_the_page_has_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("report.billion")
    printed = capsys.readouterr().out.strip()
    assert printed.count("\n") > 15
    assert printed in (ROOT / "docs" / "scale.md").read_text("utf-8")


def test_more_documents_need_more_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("report.billion", "--documents", 2_000_000, "--price", 1)
    rows = dict(
        line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if " | " in line
    )
    assert rows["| parts"] == "2"
    assert rows["| building"] == "2 core hours"
    assert rows["| price of both"] == "22"  # 2e6 / 55 / 3600 * 2 + 1646 * 2 / 3600 * 2
