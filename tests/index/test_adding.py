"""A corpus added to an index folder: committed now and then, and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index import feed
from fastlane_st.index.adding import add_to_folder
from fastlane_st.index.building import build_folder
from tests.index.test_building import CORPUS, answers, at_once, build
from tests.support.encoders import WordEncoder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_ENCODED_AT_ONCE", 3)


def test_an_interrupted_add_is_resumed(tmp_path: Path) -> None:
    build_folder(tmp_path, WordEncoder(), CORPUS[:10], 10)
    index = FastLaneIndex.load(tmp_path, WordEncoder())
    add: dict[str, Any] = {"commit_every": 9}

    class Interrupted(WordEncoder):
        def encode_document(self, texts: list[str], **options: Any) -> Any:
            if len(self.calls) == 5:
                raise KeyboardInterrupt
            return super().encode_document(texts, **options)

    index.encoder = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        add_to_folder(index, tmp_path, CORPUS[10:], **add)
    left = FastLaneIndex.load(tmp_path, WordEncoder())
    assert len(left) == 19
    with pytest.raises(ValueError, match="9 of the ids are there already, the first 'd10'"):
        add_to_folder(left, tmp_path, CORPUS[10:], **add)
    assert add_to_folder(left, tmp_path, CORPUS[10:], resume=True, **add) == 41
    assert answers(FastLaneIndex.load(tmp_path, WordEncoder())) == answers(at_once())


def test_a_resumed_add_passes_over_what_is_the_same_only(tmp_path: Path) -> None:
    index = build(tmp_path)
    changed = [*CORPUS[:5], replace(CORPUS[5], metadata={"n": -1}), CorpusDocument("new", "sky")]
    with pytest.raises(ValueError, match="1 of the ids are there already, the first 'd5'"):
        add_to_folder(index, tmp_path, changed, resume=True)
    assert len(FastLaneIndex.load(tmp_path)) == 60
    encoder = index.encoder = WordEncoder()
    assert add_to_folder(index, tmp_path, changed, resume=True, replace=True) == 2
    assert [call["texts"] for call in encoder.calls] == [[CORPUS[5].content, "sky"]]
    assert FastLaneIndex.load(tmp_path).get(["d5"])[0].metadata == {"n": -1}
    assert add_to_folder(index, tmp_path, changed, resume=True) == 0
