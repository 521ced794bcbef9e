"""FastLaneConfig: what it keeps through a file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from fastlane_st import FastLaneConfig
from fastlane_st.hub import DELTA_FOLDER

TINY = {"model_type": "modernbert", "hidden_size": 8}


def test_a_configuration_survives_its_own_json(tmp_path: Path) -> None:
    config = FastLaneConfig(backbone_config=TINY, query_num_routes=2)
    config.save_pretrained(tmp_path)
    loaded = FastLaneConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.backbone_config) is type(config.backbone_config)
    assert loaded.hidden_size == 8


def test_keys_that_it_does_not_know_are_kept(tmp_path: Path) -> None:
    config = FastLaneConfig(backbone_config=TINY, of_tomorrow=[1, 2])
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["of_tomorrow"] == [1, 2]
    assert FastLaneConfig.from_pretrained(tmp_path).of_tomorrow == [1, 2]


def test_the_released_configuration_loads_and_saves_every_value(tmp_path: Path) -> None:
    written = json.loads((DELTA_FOLDER / "config.json").read_text())
    FastLaneConfig.from_pretrained(DELTA_FOLDER).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    changes = {"transformers_version", "backbone_config", "use_cache"}  # of transformers
    assert {**saved, **{name: written[name] for name in changes}}.items() >= written.items()
    assert saved["backbone_config"]["hidden_size"] == 384


def test_special_tokens_are_sorted() -> None:
    assert FastLaneConfig(special_token_ids=[3, 1]).special_token_ids == [1, 3]
    assert FastLaneConfig().special_token_ids == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_num_routes": 0.5}, "num_routes must be a positive integer or None, got 0.5"),
        ({"query_num_routes": True}, "num_routes must be a positive integer or None, got True"),
        ({"document_num_routes": 1.5}, r"a fraction in \(0, 1\] or None, got 1.5"),
        ({"router_dim": 0}, "router_dim must be at least 1, got 0"),
        ({"window_size": 0.0}, "window_size must be above 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": "64"}, r"'embedding_dim' expected int, got str \(value: '64'\)"),
        ({"query_length": 4.5}, r"'query_length' expected int, got float \(value: 4.5\)"),
        ({"use_special_tokens": 1}, "'use_special_tokens' expected bool, got int"),
    ],
)
def test_values_of_another_type_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        FastLaneConfig(**settings)


def test_a_configuration_that_was_made_invalid_is_not_saved(tmp_path: Path) -> None:
    config = FastLaneConfig()
    config.query_length = 0
    with pytest.raises(StrictDataclassError, match="query_length must be at least 1, got 0"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_the_number_of_routes_is_the_calls_or_the_sides_default() -> None:
    config = FastLaneConfig(query_num_routes=2, document_num_routes=0.25)
    assert config.resolve_num_routes("query", "default") == 2
    assert config.resolve_num_routes("document", "default") == 0.25
    assert config.resolve_num_routes("query", None) is None
    for task, num_routes in (("query", 0.5), ("document", "auto"), ("document", 1.5)):
        with pytest.raises(ValueError, match=f"or None, got {num_routes!r}"):
            config.resolve_num_routes(task, num_routes)  # type: ignore[arg-type]
