"""A look into a checkpoint before it is trusted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import cli
from fastlane_st.modeling.checkpoint_fastlane import HUB_FILES
from fastlane_st.publish.inspect import inspect
from tests.publish.test_push import REPOSITORY, fastlane, hub  # noqa: F401  # a fixture
from tests.support.hub_server import Hub


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    return copy


def test_a_checkpoint_is_shown_as_it_is(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(
        card.read_text("utf-8").replace("---\n", "---\nlicense: apache-2.0\n", 1), "utf-8"
    )
    found = inspect(folder)
    assert found.kind == "fastlane"
    assert found.licence == "apache-2.0"
    assert [one.name for one in found.code] == sorted(HUB_FILES)
    assert {one.state for one in found.code} == {"this package's"}
    [weights] = found.weights
    assert weights.name == "model.safetensors"
    assert weights.sha256 == hashlib.sha256((folder / weights.name).read_bytes()).hexdigest()
    assert found.code_elsewhere == ()


def test_what_differs_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "router_fastlane.py").open("a") as file:
        file.write("import os\n")
    (folder / "extra.py").write_text("print('run me')\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/code--modeling_fastlane.FastLaneModel"
    (folder / "config.json").write_text(json.dumps(config))
    found = inspect(folder)
    states = {one.name: one.state for one in found.code}
    assert states["router_fastlane.py"] == "different"
    assert states["extra.py"] == "not this package's"
    assert found.code_elsewhere == ("someone/code",)
    assert [one.is_pickle for one in found.weights] == [False, True]
    assert cli.main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "router_fastlane.py: different" in said
    assert "pytorch_model.bin: a pickle, which is never loaded" in said
    assert "someone/code" in said
    assert cli.main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["code_elsewhere"] == ["someone/code"]


def test_code_of_elsewhere_is_found_wherever_loaders_follow_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "modules.json").write_text('[{"idx": 0, "type": "evil/module--st.Custom"}]')
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil/tokenizer--tok.Slow", None]}, "note": "a--b"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert inspect(tmp_path).code_elsewhere == ("evil/module", "evil/tokenizer")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("1_Custom/config.json", {"auto_map": {"AutoModel": "evil/code--model.Custom"}}),
        (
            "text/backbone/tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["evil/code--t.T"]}},
        ),
        ("query/modules.json", [{"idx": 0, "type": "evil/code--st.Custom"}]),
        ("router_config.json", {"types": {"query_0": "evil/code--st.Custom"}}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoProcessor": "evil/code--v.V"}}),
        ("config.4.0.0.json", {"auto_map": {"AutoModel": "evil/code--model.Custom"}}),
    ],
)
def test_code_of_elsewhere_is_found_in_every_part(path: str, content: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(json.dumps(content))
    assert inspect(tmp_path).code_elsewhere == ("evil/code",)
    (tmp_path / path).write_text("{")
    with pytest.raises(ValueError, match=rf"{re.escape(path)} is no JSON"):
        inspect(tmp_path)


def test_code_of_elsewhere_needs_no_owner_and_may_be_in_a_folder(tmp_path: Path) -> None:
    references = {"AutoModel": "evil--model.Custom", "AutoConfig": "../beside--model.Config"}
    config = {"model_type": "bert", "auto_map": references, "note": "well--known. Or--not"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert inspect(tmp_path).code_elsewhere == ("../beside", "evil")


@pytest.mark.parametrize("content", ["null", "5", "[1]"])
def test_a_config_that_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is no JSON object"):
        inspect(tmp_path)


def test_results_of_the_card_are_shown(folder: Path) -> None:
    from fastlane_st.model_card.card import render_card
    from fastlane_st.modeling.configuration_fastlane import FastLaneConfig

    row = {"dataset": "nq", "split": "test", "num_routes": 1, "metric": "ndcg_at_10", "value": 0.5}
    config = FastLaneConfig.from_pretrained(folder)
    card = render_card(config, {"command": "c", "rows": [row]}, name="x")  # type: ignore[list-item]
    (folder / "README.md").write_text(card)
    found = inspect(folder)
    assert found.results == (("nq", "num_routes=1", "ndcg_at_10", 0.5),)
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert inspect(folder).results == ()


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="it is no checkpoint"):
        inspect(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        inspect(folder)


@pytest.mark.slow
def test_a_repository_is_read_without_its_weights(
    hub: Hub,  # noqa: F811
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    fastlane(hub, tmp_path / "a", "push", str(checkpoint), REPOSITORY)
    found = json.loads(fastlane(hub, tmp_path / "b", "inspect", REPOSITORY, "--json"))
    repository = hub.repositories[REPOSITORY]
    assert found["commit"] == repository.branches["main"]
    assert [one["state"] for one in found["code"]] == ["this package's"] * len(HUB_FILES)
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert found["weights"][0]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert not any("GET" in asked and "safetensors" in asked for asked in hub.asked)
    said = fastlane(hub, tmp_path / "b", "inspect", REPOSITORY, "--revision", "nothing")
    assert "can't be read" in said
