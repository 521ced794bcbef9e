"""YAML files and `key=value` overrides: what they give, and how broken ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.parse_config import read_yaml, replace_value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"scale: [1", r"c\.yaml: broken YAML \(.*line 1, column 8"),
        (b"scale: \xff", r"c\.yaml: broken YAML \(.*invalid start byte"),
        (b"", r"c\.yaml must hold a mapping, got None"),
        (b"- scale", r"c\.yaml must hold a mapping, got \['scale'\]"),
    ],
)
def test_broken_files_are_named_on_one_line(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(raised.value)


def test_an_override_replaces_a_value_at_any_depth() -> None:
    values: dict[str, Any] = {"seed": 1, "lora": {"rank": 2}, "loss_weights": None}
    for override in ("seed=3", "lora.rank=4", "loss_weights.full=0", "columns.query=a=b"):
        replace_value(values, override)
    assert values == {
        "seed": 3,
        "lora": {"rank": 4},
        "loss_weights": {"full": 0},
        "columns": {"query": "a=b"},
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resume", "expected key=value, got 'resume'"),
        ("seed.one=1", "seed.one=1: seed must be a mapping, got 3"),
        ("sources.cap=1", r"sources must be a mapping, got \[\]"),
        ("num_routes=[1", r"num_routes=\[1: broken YAML \("),
    ],
)
def test_broken_overrides_say_why(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_value({"seed": 3, "sources": []}, override)
