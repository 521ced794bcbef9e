"""Loading by name: what may be named, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from fastlane_st import FastLaneEncoder, hub
from fastlane_st.files import found_anywhere
from fastlane_st.loading import ask_hub, find_checkpoint, load_model
from fastlane_st.new_model import from_backbone
from tests.support.checkpoints import COMMIT, assert_same, embeddings_of, lay_into_hub_cache


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


@pytest.mark.parametrize("name", [None, "", " ", 5, b"fastlane-minilm", ["fastlane-minilm"]])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="model_name_or_path must be a checkpoint's folder, a Hub"):
        FastLaneEncoder(name)


def test_an_encoder_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model_name_or_path must be .*, got None"):
        FastLaneEncoder()


def test_an_encoder_of_modules_needs_no_name(checkpoint: Path) -> None:
    [module] = FastLaneEncoder(checkpoint)
    found = embeddings_of(FastLaneEncoder(modules=[module]))
    assert_same(found, embeddings_of(FastLaneEncoder(checkpoint)))


def test_a_file_is_no_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"config.json is a file: name the checkpoint's"):
        FastLaneEncoder(checkpoint / "config.json")


# A folder with the released model's name


@pytest.fixture
def namesake(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder `fastlane-minilm`; the released model is another one."""
    (tmp_path / hub.DEFAULT_CHECKPOINT).symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastlane_st.loading.default_checkpoint", lambda: checkpoint)
    return checkpoint


def test_the_released_model_wins_over_a_folder_of_its_name_and_says_so(
    namesake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint("fastlane-minilm").name == str(namesake)
    assert "not the folder here, which is './fastlane-minilm'" in caplog.text


@pytest.mark.parametrize("name", ["./fastlane-minilm", Path("fastlane-minilm")])
def test_a_folder_of_that_name_is_named_by_its_path(
    name: str | Path, namesake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_checkpoint(name).name == str(name)
    assert not caplog.records


def test_the_released_model_wins_over_an_adapter_of_its_name_and_is_an_adapters_base(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastlane_st.loading.default_checkpoint", lambda: checkpoint)
    write_adapter(tmp_path / "fastlane-minilm", "owner/base")
    write_adapter(tmp_path / "adapter", "fastlane-minilm")
    assert find_checkpoint("fastlane-minilm") == (str(checkpoint), None)
    assert find_checkpoint(Path("fastlane-minilm")) == ("owner/base", "fastlane-minilm")
    for adapter in ("adapter", Path("adapter")):
        assert find_checkpoint(adapter) == (str(checkpoint), "adapter")


def test_a_name_that_is_kept_means_the_same_from_anywhere(namesake: Path) -> None:
    here = Path.cwd() / "fastlane-minilm"
    assert found_anywhere("fastlane-minilm") == "fastlane-minilm"
    assert found_anywhere("./fastlane-minilm") == found_anywhere(Path(here.name)) == str(here)
    assert found_anywhere("owner/name") == "owner/name"


# Names that are no folder


def answer_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the Hub answer with an error; gives the addresses that it is asked for."""
    asked = []

    def refuse(url: str, **options: Any) -> None:
        asked.append(url)
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("fastlane_st.loading.get_hf_file_metadata", refuse)
    return asked


@pytest.mark.parametrize("load", [FastLaneEncoder, load_model, from_backbone])
@pytest.mark.parametrize("name", ["typo", "owner/typo"])
def test_without_a_network_a_missing_model_is_named_after_one_question(
    load: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_with(httpx.ConnectError("Name or service not known"), monkeypatch)
    with pytest.raises(
        FileNotFoundError,
        match=rf"no folder {name}, and the Hub can't be asked .* \(Name or service not known\)",
    ):
        load(name)
    assert asked == [f"https://huggingface.co/{name}/resolve/main/config.json"]


def test_offline_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"no folder nope, .* HF_HUB_OFFLINE is set"):
        FastLaneEncoder(Path("nope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError, match=r"no folder nope, .* \(local_files_only"):
        FastLaneEncoder("nope", local_files_only=True)


def response(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("HEAD", "https://huggingface.co"))


def test_a_repository_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(RepositoryNotFoundError("401", response=response(401)), monkeypatch)
    with pytest.raises(FileNotFoundError, match="the Hub has no repository of that name, or it is"):
        FastLaneEncoder("owner/typo")


@pytest.mark.parametrize(
    "kind", [GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError, HfHubHTTPError]
)
def test_what_else_the_hub_says_is_left_to_transformers(
    kind: type[HfHubHTTPError], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(kind("refused", response=response(404)), monkeypatch)
    ask_hub("owner/name")


def test_the_hub_is_not_asked_for_what_is_in_the_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_into_hub_cache(checkpoint, tmp_path, "org/tiny")
    asked = answer_with(httpx.ConnectError("down"), monkeypatch)
    for revision in (None, "main", COMMIT):
        ask_hub("org/tiny", cache_dir=str(tmp_path / "hub"), revision=revision)
    assert asked == []
    with pytest.raises(FileNotFoundError, match="no folder org/tiny"):
        ask_hub("org/tiny", cache_dir=str(tmp_path / "hub"), revision="v2")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fastlane-minilmm", "fastlane-minilm"),
        ("fastlane_minilm", "fastlane-minilm"),
        ("my-chekpoint", "my-checkpoint"),
        ("./runs/medquad2", "runs/medquad"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-checkpoint").mkdir()
    (tmp_path / "runs" / "medquad").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    answer_with(httpx.ConnectError("down"), monkeypatch)
    with pytest.raises(FileNotFoundError, match=f"did you mean '{meant}'\\?"):
        FastLaneEncoder(name)
