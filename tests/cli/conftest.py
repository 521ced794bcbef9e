"""A corpus file, and the folder of its index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlane_st import cli
from tests.conftest import DOCUMENTS


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"d{n}", "title": "python", "text": text} for n, text in enumerate(DOCUMENTS)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def index_folder(corpus: Path, checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    assert cli.main(["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]) == 0
    return folder
