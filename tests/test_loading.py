"""Loading by name: what may be named, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder, hub
from fastlane_st.loading import find_checkpoint, load_model
from tests.support.checkpoints import assert_same, embeddings_of


def write_adapter(folder: Path, base: str | None) -> Path:
    folder.mkdir()
    settings = json.dumps({"base_model_name_or_path": base})
    (folder / "adapter_config.json").write_text(settings)
    return folder


def test_folders_and_hub_names_are_taken_as_they_are(checkpoint: Path) -> None:
    assert find_checkpoint(checkpoint) == (str(checkpoint), None)
    assert find_checkpoint("owner/name") == ("owner/name", None)


def test_the_default_checkpoint_is_found_in_its_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlane_st.loading.default_checkpoint", lambda: checkpoint)
    assert find_checkpoint(hub.DEFAULT_CHECKPOINT) == (str(checkpoint), None)
    adapter = write_adapter(tmp_path / "adapter", hub.DEFAULT_CHECKPOINT)
    assert find_checkpoint(adapter) == (str(checkpoint), str(adapter))


def test_an_adapter_without_a_base_is_named(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", None)
    with pytest.raises(ValueError, match=r"adapter doesn't name its base; load that, then load_ad"):
        find_checkpoint(adapter)


def test_models_of_another_kind_are_refused(
    backbone_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(backbone_folder("bert"))
    with pytest.raises(ValueError, match="is no FastLane checkpoint"):
        find_checkpoint(folder)
    # As a Hub name, of which only the configuration tells.
    monkeypatch.setattr("fastlane_st.loading.find_checkpoint", lambda name: (name, None))
    with pytest.raises(ValueError, match="is no FastLane checkpoint"):
        load_model(folder)


def test_a_model_encodes_as_its_encoder_does(checkpoint: Path) -> None:
    found = embeddings_of(load_model(str(checkpoint)))
    assert_same(found, embeddings_of(FastLaneEncoder(checkpoint)))
