"""docs/frameworks.md: its blocks run and print what the page says, each framework's where it is installed."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
BLOCK = re.compile(r"```py\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
MODULES = {
    "langchain": "langchain_core",
    "llama_index": "llama_index.core",
    "haystack": "haystack",
    "dspy": "dspy",
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", MODULES)
def test_blocks_run_and_print_what_the_page_says(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(MODULES[framework])
    monkeypatch.chdir(tmp_path)
    (first, _), *others = BLOCK.findall(PAGE.read_text("utf-8"))
    [(code, expected)] = [one for one in others if f"integrations.{framework} import" in one[0]]
    names = {"__name__": "__main__"}
    exec(first, names)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert printed.getvalue() == expected


def test_every_block_is_of_a_framework() -> None:
    assert len(BLOCK.findall(PAGE.read_text("utf-8"))) == 1 + len(MODULES)
