"""The checkpoint that the package carries: exported, cached, and checked against its base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastlane_st import FastLaneEncoder, cli, hub


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "fastlane-minilm"
    assert cli.main(["export", str(folder)]) == 0
    return folder


def test_the_default_checkpoint_is_what_export_writes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path / "home"))
    encoder = FastLaneEncoder("fastlane-minilm")
    [cached] = (tmp_path / "home").iterdir()
    names = {path.name for path in exported.iterdir()}
    assert {path.name for path in cached.iterdir()} == names
    for name in names - {"README.md"}:
        assert (cached / name).read_bytes() == (exported / name).read_bytes(), name
    assert encoder.get_embedding_dimension() == 384


def test_weights_are_as_readable_as_the_other_files(
    exported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    FastLaneEncoder(checkpoint).save_pretrained(tmp_path / "saved")
    for folder in (exported, tmp_path / "saved"):
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_new_version_base_or_delta_is_cached_beside_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = []

    def export(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "modules.json").touch()
        exports.append(folder)

    delta = tmp_path / "delta"
    delta.mkdir()
    (delta / "config.json").write_text("{}")
    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "export", export)
    monkeypatch.setattr(hub, "DELTA_FOLDER", delta)
    first = hub.default_checkpoint()
    assert hub.default_checkpoint() == first
    monkeypatch.setattr(hub, "BASE_SHA256", "0" * 64)
    hub.default_checkpoint()
    monkeypatch.setattr(hub, "__version__", "99.0")
    assert "99.0" in hub.default_checkpoint().name
    (delta / "config.json").write_text('{"window_size": 3}')
    hub.default_checkpoint()
    assert len({*exports}) == len(exports) == 4


def test_the_default_checkpoint_finds_the_passage_that_answers(exported: Path) -> None:
    encoder = FastLaneEncoder(exported)
    passages = ["json.load reads a file.", "Paris is in France.", "heapq keeps a heap of numbers."]
    index = encoder.build_index(passages)
    for num_routes in (1, None):
        hits = index.search(["What is the capital of France?"], top_k=1, num_routes=num_routes)
        assert [hit.id for [hit] in hits] == [1]


RELEASED = {  # Σ_i cos(i) v_i of each view, as measured when fastlane-minilm was released
    ("query", 1): [[0.739453], [-0.353477]],
    ("query", 2): [[1.434719, 0.12536], [-0.288233, -0.291338]],
    ("query", None): [
        [
            1.915884,
            1.742636,
            0.940905,
            0.520381,
            1.107746,
            -0.053042,
            0.482496,
            0.981792,
            -0.599361,
            0.732049,
        ],
        [-0.050481, 0.079828, -0.140078, -0.638096, -0.021861, -0.456217],
    ],
    ("document", None): [
        [
            -0.351775,
            0.049525,
            -0.177681,
            -0.289718,
            -0.036698,
            0.093221,
            -0.226484,
            -0.173723,
            -0.214271,
            -0.185268,
            -0.12011,
            -0.161215,
            -0.284481,
            -0.125571,
        ]
    ],
}


@pytest.mark.parametrize(("side", "num_routes"), RELEASED)
def test_the_released_model_encodes_as_it_did_when_it_was_released(
    side: str, num_routes: int | None, exported: Path
) -> None:
    texts = {
        "query": ["how do I parse JSON in Python?", "what is the capital of France"],
        "document": ["Paris is the capital and largest city of France, on the Seine."],
    }
    encoder = FastLaneEncoder(exported)
    direction = torch.arange(384).cos()
    found = getattr(encoder, f"encode_{side}")(texts[side], num_routes=num_routes)
    for views, expected in zip(found, RELEASED[side, num_routes], strict=True):
        torch.testing.assert_close(views @ direction, torch.tensor(expected), rtol=0, atol=1e-5)


def test_export_gives_the_weights_that_the_delta_and_the_base_say(exported: Path) -> None:
    written = load_file(exported / "model.safetensors")
    delta = load_file(hub.DELTA_FOLDER / "delta.safetensors")
    base = load_file(hub.base_weights() / "model.safetensors")
    for name, value in written.items():
        expected = delta[name] if name in delta else base[name.removeprefix("backbone.")]
        assert torch.equal(value, expected.float()), name


def test_weights_other_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BASE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="are not sentence-transformers/all-MiniLM-L6-v2"):
        hub.export(tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_without_the_offline_package_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"fastlane-st\[offline\]"):
        hub.base_weights()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTLANE_HOME": "/f", "XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/f"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/x/fastlane-st"),
        ({"HF_HOME": "/h"}, "/h/fastlane-st"),
        ({"HOME": "/home/me"}, "/home/me/.cache/fastlane-st"),
    ],
)
def test_the_cache_is_where_the_user_keeps_caches(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTLANE_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.cache_folder() == Path(expected)


def test_without_a_home_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTLANE_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(
        OSError, match="no home folder for the cache: set FASTLANE_HOME to a folder"
    ):
        hub.cache_folder()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only")]
)
def test_a_cache_that_cannot_be_written_is_named(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise error

    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path / "locked"))
    monkeypatch.setattr(hub, "export", refuse)
    with pytest.raises(
        OSError, match=rf"locked can't be used \({error.strerror}\): set FASTLANE_HOME"
    ):
        hub.default_checkpoint()


@pytest.mark.parametrize(
    "name", ["/nowhere/model", "./model", "a/b/c", "../x", "mödel", "C:\\model"]
)
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*, and that is no name of a Hub"
    ):
        FastLaneEncoder(name)
    assert cli.main(["evaluate", name or "/", "data"]) == 1
