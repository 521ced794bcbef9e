"""README and the guide pages: examples run, links lead somewhere, README's numbers are the JSON's.

The examples of a page run as they stand and in order, in a folder of the page's own. Run as a program, this
file does that for one page in the working folder, so that a page imports torch once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs").glob("*.md"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
BLOCK = re.compile(r"```(python|bash)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
# Blocks that install something, or need training data or a checkout's root.
SKIPPED = ("make ", "pip install", "-m training", "-m benchmarks", "-m tests", "runs/")
NEEDS = {"stores.md": "lancedb"}  # packages that a page's examples need

QUALITY = {
    "dense twin": "dense_checkpoint",
    "**one route**": "router_1",
    "two routes": "router_2",
    "four routes": "router_4",
    "all token vectors": "full",
}
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "BM25": ("bm25", {}),
    "one route": ("fastlane", {"effort": 1}),
    "the same with `rerank=100`": ("fastlane", {"effort": 1, "rerank": 100}),
    "fast-plaid, 4 bits, its defaults": ("plaid", {"n_ivf_probe": 8, "n_full_scores": 4096}),
    "fast-plaid, its best": ("plaid", {"n_ivf_probe": 32, "n_full_scores": 4096}),
}


class Block(NamedTuple):
    """An example: its language, its code, what it prints ("" for anything), its first line's number."""

    language: str
    code: str
    printed: str
    line: int


def read_blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        language, code, printed = found.groups(default="")
        if not any(word in code for word in SKIPPED):
            yield Block(language, code, printed, text.count("\n", 0, found.start()) + 2)


def run_block(block: Block, page: Path) -> str:
    """Runs an example in the working folder; gives what it printed."""
    if block.language == "bash":
        command = ["bash", "-euc", block.code]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"__name__": "__main__"})
    return printed.getvalue()


def main(page: Path) -> None:
    sys.path[0] = ""  # the working folder, as `python -c` has it, in place of this file's
    for block in read_blocks(page):
        printed = run_block(block, page)
        if block.printed and printed != block.printed:
            sys.exit(f"{page}:{block.line} printed\n{printed}in place of\n{block.printed}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that holds `fastlane-minilm`, made once for all pages."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.name)
def test_examples_run_and_print_what_the_page_says(page: Path, home: Path, tmp_path: Path) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    commands = Path(sys.executable).parent
    environment = os.environ | {
        "FASTLANE_HOME": str(home),
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(page)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [README, *GUIDE, *DECISIONS], ids=lambda page: page.name)
def test_relative_links_lead_to_a_file_and_a_heading_of_it(page: Path) -> None:
    for target, heading in LINK.findall(page.read_text("utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        if heading:
            assert heading in headings(path), f"{target}#{heading}"


def headings(page: Path) -> list[str]:
    """The names by which GitHub links to a page's headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


def test_readme_has_the_quality_of_the_json() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text("utf-8"))
    over = found["over_sets"]
    trained_sets = json.loads((ROOT / "benchmarks/results/trained.json").read_text("utf-8"))["sets"]
    for label, setting in QUALITY.items():
        value, share, trained = table_row(label)
        if trained:
            both = (trained_sets[name]["ndcg@10"] for name in ("untrained", "fastlane-minilm"))
            means = (one[setting] for one in both)
            assert trained == " → ".join(f"{mean:.3f}".removeprefix("0") for mean in means)
        assert value == f"{over['ndcg@10'][setting]:.3f}".removeprefix("0")
        assert float(share.removesuffix(" %")) == round(100 * over["ratio_to_full"][setting], 1)


def test_readme_has_the_search_of_the_json() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "engines.json").read_text("utf-8"))
    for label, (engine, search) in ENGINES.items():
        [run] = [run for run in found["runs"] if run["engine"] == engine]
        [setting] = [one for one in run["settings"] if one["search"] == search]
        value, overlap, per_second, size = table_row(label)
        assert value == f"{setting['ndcg@10']:.3f}".removeprefix("0")
        assert overlap == f"{100 * setting['overlap_maxsim']:.0f} %"
        rate = setting["queries_per_second_median"]
        assert float(per_second) == (round(rate) if rate >= 10 else round(rate, 1))
        assert size == f"{run['bytes_per_document']:,.0f}"


def table_row(label: str) -> list[str]:
    """The cells of the one row of README's tables whose first cell begins with `label`."""
    lines = README.read_text("utf-8").splitlines()
    [row] = [line for line in lines if line.startswith(f"| {label}")]
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
