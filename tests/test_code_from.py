"""Checkpoints whose source files are in another repository: how they load, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_st import FastLaneEncoder, FastLaneModel, cli
from fastlane_st.adapters import LoraSettings, lora_config
from fastlane_st.hub import CodeSource, reference_code
from tests.support.checkpoints import (
    COMMIT,
    assert_same,
    embeddings_of,
    lay_into_hub_cache,
    run_without_package,
)

PINNED = "f" * 40
CODE_FROM = f"org/base@{PINNED}"


@pytest.fixture(scope="module")
def tuned(checkpoint: Path) -> FastLaneEncoder:
    """The checkpoint with other weights."""
    encoder = FastLaneEncoder(checkpoint)
    with torch.no_grad():
        encoder[0].model.projection.linear.weight += 0.25
    return encoder


@pytest.fixture(scope="module")
def expected(tuned: FastLaneEncoder) -> dict[str, np.ndarray]:
    return embeddings_of(tuned)


@pytest.fixture(scope="module")
def tuned_folder(tuned: FastLaneEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code-from") / "tuned"
    tuned.save_pretrained(folder, code_from=CODE_FROM)
    return folder


@pytest.fixture(scope="module")
def hub_home(
    checkpoint: Path, tuned_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an HF_HOME that holds org/base with its code, and org/tuned without.

    The code at the head of org/base's main can't be imported: only the pinned commit's can.
    """
    folder = tmp_path_factory.mktemp("hub")
    lay_into_hub_cache(checkpoint, folder / "hf", "org/base", commit=PINNED, branch=None)
    newer = folder / "newer"
    shutil.copytree(checkpoint, newer)
    for path in newer.glob("*_fastlane.py"):
        path.write_text("raise RuntimeError('code of main')\n")
    lay_into_hub_cache(newer, folder / "hf", "org/base", commit=COMMIT)
    lay_into_hub_cache(tuned_folder, folder / "hf", "org/tuned", commit="a" * 40)
    return folder


@pytest.mark.slow
def test_a_repository_without_code_loads_both_ways_with_the_code_of_the_pinned_commit(
    hub_home: Path, expected: dict[str, np.ndarray]
) -> None:
    code = f"""
    auto = AutoModel.from_pretrained(
        "org/tuned", trust_remote_code=True, code_revision="{PINNED}"
    )
    save_embeddings(auto, "auto.npz")
    st = MultiVectorEncoder(
        "org/tuned", trust_remote_code=True, model_kwargs={{"code_revision": "{PINNED}"}}
    )
    save_embeddings(st, "st.npz")
    assert type(auto) is type(st[0].model)
    auto.save_pretrained("auto-again")
    save_embeddings(MultiVectorEncoder("auto-again", trust_remote_code=True), "auto-again.npz")
    print(open("auto-again/config.json").read().count("code_revision"))
    st.save_pretrained("again")  # with code of its own
    save_embeddings(AutoModel.from_pretrained("again", trust_remote_code=True), "again.npz")
    try:
        AutoModel.from_pretrained("org/tuned", trust_remote_code=True)
    except RuntimeError as error:
        print(error)
    """
    runs = run_without_package({"pinned": code}, hub_home)
    assert runs.finished("pinned") == "0\ncode of main\n"
    for name in ("auto", "st", "again", "auto-again"):
        assert_same(runs.embeddings("pinned", f"{name}.npz"), expected)


@pytest.mark.slow  # peft asks the Hub for an adapter, in vain
def test_the_package_loads_it_with_its_own_code(
    hub_home: Path, tuned_folder: Path, expected: dict[str, np.ndarray]
) -> None:
    assert_same(embeddings_of(FastLaneEncoder(tuned_folder)), expected)
    assert_same(embeddings_of(FastLaneModel.from_pretrained(tuned_folder)), expected)
    cached = {"cache_folder": str(hub_home / "hf" / "hub"), "local_files_only": True}
    assert_same(embeddings_of(FastLaneEncoder("org/tuned", **cached)), expected)


def test_the_folder_names_repository_and_commit_and_holds_no_code(tuned_folder: Path) -> None:
    assert not list(tuned_folder.glob("*.py"))
    config = json.loads((tuned_folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "org/base--configuration_fastlane.FastLaneConfig",
        "AutoModel": "org/base--modeling_fastlane.FastLaneModel",
    }
    assert config["code_revision"] == PINNED
    [module] = json.loads((tuned_folder / "modules.json").read_text())
    assert module["type"] == "org/base--st_fastlane.FastLaneTransformer"
    card = (tuned_folder / "README.md").read_text()
    assert f'trust_remote_code=True, code_revision="{PINNED}")' in card
    assert f'trust_remote_code=True, model_kwargs={{"code_revision": "{PINNED}"}})' in card
    assert "https://hf.co/org/base" in card


def test_a_model_saved_again_has_code_and_no_pin_unless_one_is_given(
    checkpoint: Path, tuned_folder: Path, tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(tuned_folder)
    encoder.save_pretrained(tmp_path / "own")
    names = {path.name for path in (tmp_path / "own").iterdir()}
    assert {path.name for path in checkpoint.glob("*.py")} <= names
    for path in (tmp_path / "own").glob("*.*"):
        assert PINNED.encode() not in path.read_bytes(), path.name
    other = "e" * 40
    encoder.save_pretrained(tmp_path / "other", code_from=f"org/other@{other}")
    card = (tmp_path / "other" / "README.md").read_text()
    assert PINNED not in card
    assert card.count(f'code_revision="{other}"') == 1
    assert card.count("hf.co/org/other") == card.count("## Source files") == 1
    assert "org/other--" in (tmp_path / "other" / "modules.json").read_text()


def test_a_folder_that_transformers_saved_is_rewritten_alike(
    checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "saved")
    reference_code(tmp_path / "saved", CodeSource("org/base", PINNED))
    reference_code(tmp_path / "saved", CodeSource("org/base", PINNED))
    assert not list((tmp_path / "saved").glob("*.py"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "org/base--modeling_fastlane.FastLaneModel"
    assert_same(
        embeddings_of(FastLaneEncoder(tmp_path / "saved")),
        embeddings_of(FastLaneEncoder(checkpoint)),
    )


def test_export_can_leave_the_code_to_a_repository(tmp_path: Path) -> None:
    assert cli.main(["export", str(tmp_path / "model"), "--code-from", CODE_FROM]) == 0
    assert not list((tmp_path / "model").glob("*.py"))
    assert f'code_revision="{PINNED}"' in (tmp_path / "model" / "README.md").read_text()
    assert FastLaneEncoder(tmp_path / "model").encode_query("json", num_routes=1).shape == (1, 384)


@pytest.mark.parametrize(
    "code_from",
    [
        "org/base",
        "org/base@",
        "org/base@main",
        f"org/base@{PINNED[:7]}",
        f"org/base@{PINNED}0",
        f"org/base@{PINNED.upper()}",
        f"base@{PINNED}",
        f"org/ba--se@{PINNED}",  # "--" parts the repository from the module
        f"https://hf.co/org/base@{PINNED}",
        f"@{PINNED}",
    ],
)
def test_anything_but_a_commit_of_a_repository_is_refused_before_saving(
    code_from: str, tuned: FastLaneEncoder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"code_from must be 'owner/repo@commit' with the 40"):
        tuned.save_pretrained(tmp_path / "saved", code_from=code_from)
    assert not (tmp_path / "saved").exists()


def test_an_adapter_has_no_code_to_take_from_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.add_adapter(lora_config(encoder[0].model, LoraSettings(rank=2)))
    with pytest.raises(ValueError, match="an adapter is saved without code: leave code_from out"):
        encoder.save_pretrained(tmp_path / "adapter", code_from=CODE_FROM)
    encoder.save_pretrained(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
