"""The demo's index is built once, and again where a first build was interrupted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.demo import index as demo
from tests.conftest import DOCUMENTS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    documents = [CorpusDocument(f"d{n}", text) for n, text in enumerate(DOCUMENTS)]
    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "default_checkpoint", lambda: Path("tiny-1234"))
    monkeypatch.setattr(demo, "python_documents", lambda: iter(documents))
    return tmp_path


def test_a_second_call_loads_the_index_of_the_first(
    home: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    built = demo.demo_index(encoder)
    said = (
        rf"indexing {len(DOCUMENTS)} passages .*, once, .*; the index stays in {home}/demo-python-"
    )
    assert re.search(said, capsys.readouterr().err)
    monkeypatch.setattr(demo, "python_documents", lambda: pytest.fail("built again"))
    loaded = demo.demo_index(encoder)
    assert "indexing" not in capsys.readouterr().err
    assert loaded.ids == built.ids == [f"d{n}" for n in range(len(DOCUMENTS))]
    query, hits = "sort a list", built.search("sort a list")
    assert loaded.search(query) == hits
    [folder] = home.iterdir()
    assert folder.name.startswith("demo-python-")
    assert folder.name.endswith("-tiny-1234")


def test_an_interrupted_first_build_is_built_again(
    home: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    encoder = FastLaneEncoder(checkpoint)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", interrupt)
        patched.setattr("pathlib.Path.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.demo_index(encoder)
    [folder] = home.iterdir()
    assert list(folder.iterdir())
    assert not (folder / "index.json").exists()
    assert demo.demo_index(encoder).ids == FastLaneIndex.load(folder).ids
    assert len(FastLaneIndex.load(folder)) == len(DOCUMENTS)
