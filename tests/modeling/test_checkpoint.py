"""One checkpoint folder, three ways in, one result; with and without this package installed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel

from fastlane_st import FastLaneEncoder, FastLaneModel
from fastlane_st.modeling.checkpoint_fastlane import HUB_FILES
from tests.conftest import DOCUMENTS, QUERIES

ROUTES = (1, 4, None)


def embeddings_of(model: object) -> dict[str, np.ndarray]:
    """Every query's and document's embeddings at every number of routes."""
    found = {}
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for num_routes in ROUTES:
            encode = getattr(model, f"encode_{side}")
            for number, views in enumerate(encode(texts, num_routes=num_routes)):
                found[f"{side} {number}, {num_routes} routes"] = views.numpy()
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5, err_msg=name)


WITHOUT_PACKAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "fastlane_st" or name.startswith("fastlane_st."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel
QUERIES, DOCUMENTS, ROUTES = %r, %r, (1, 4, None)
def save_embeddings(model, path):
    found = {}
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for k in ROUTES:
            for n, views in enumerate(getattr(model, f"encode_{side}")(texts, num_routes=k)):
                found[f"{side} {n}, {k} routes"] = views.numpy()
    np.savez(path, **found)
"""


def run_without_package(code: str, folder: Path) -> None:
    """Runs `code` in `folder`, in a process where fastlane_st can't be imported."""
    setup = WITHOUT_PACKAGE % (QUERIES, DOCUMENTS)
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def expected(model: FastLaneModel) -> dict[str, np.ndarray]:
    return embeddings_of(model)


def test_three_ways_in_give_one_result(any_model: FastLaneModel, tmp_path: Path) -> None:
    any_model.save_pretrained(tmp_path / "checkpoint")
    path = str(tmp_path / "checkpoint")
    expected = embeddings_of(any_model)
    assert_same(embeddings_of(AutoModel.from_pretrained(path, trust_remote_code=True)), expected)
    assert_same(embeddings_of(MultiVectorEncoder(path, trust_remote_code=True)), expected)
    assert_same(embeddings_of(FastLaneEncoder(path)), expected)


def test_load_save_load_save_load_holds_without_the_package(
    checkpoint: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    code = f"""
    auto = AutoModel.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
    assert "transformers_modules" in type(auto).__module__
    auto.save_pretrained("auto-1")
    AutoModel.from_pretrained("auto-1", trust_remote_code=True).save_pretrained("auto-2")
    save_embeddings(AutoModel.from_pretrained("auto-2", trust_remote_code=True), "auto.npz")

    MultiVectorEncoder({str(checkpoint)!r}, trust_remote_code=True).save_pretrained("st-1")
    MultiVectorEncoder("st-1", trust_remote_code=True).save_pretrained("st-2")
    save_embeddings(MultiVectorEncoder("st-2", trust_remote_code=True), "st.npz")

    # Each kind of model's folder is the other's, too.
    save_embeddings(MultiVectorEncoder("auto-2", trust_remote_code=True), "st-of-auto.npz")
    save_embeddings(AutoModel.from_pretrained("st-2", trust_remote_code=True), "auto-of-st.npz")
    """
    run_without_package(code, tmp_path)
    for name in ("auto", "st", "st-of-auto", "auto-of-st"):
        with np.load(tmp_path / f"{name}.npz") as saved:
            assert_same(dict(saved), expected)
    for folder in ("auto-2", "st-2"):
        assert_same(embeddings_of(FastLaneEncoder(tmp_path / folder)), expected)


def test_what_the_package_saves_loads_without_it(
    checkpoint: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    FastLaneEncoder(checkpoint).save_pretrained(tmp_path / "one")
    FastLaneEncoder(tmp_path / "one").save_pretrained(tmp_path / "two")
    code = """
    save_embeddings(MultiVectorEncoder("two", trust_remote_code=True), "st.npz")
    save_embeddings(AutoModel.from_pretrained("two", trust_remote_code=True), "auto.npz")
    """
    run_without_package(code, tmp_path)
    for name in ("auto", "st"):
        with np.load(tmp_path / f"{name}.npz") as saved:
            assert_same(dict(saved), expected)


def test_a_checkpoint_searches_without_the_package(checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
    import json
    model = AutoModel.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
    index = model.build_index(DOCUMENTS, ids=list("abcdef"))
    index.save("index")
    hits = index.search(QUERIES, top_k=2, num_routes=1)
    json.dump([[[hit.id, hit.score] for hit in found] for found in hits], open("hits.json", "w"))
    """
    run_without_package(code, tmp_path)
    found = json.loads((tmp_path / "hits.json").read_text())
    encoder = FastLaneEncoder(checkpoint)
    scores = encoder.similarity(
        encoder.encode_query(QUERIES, num_routes=1), encoder.encode_document(DOCUMENTS)
    )
    for row, hits in zip(scores, found, strict=True):
        best = torch.argsort(row, descending=True, stable=True)[:2].tolist()
        assert [hit[0] for hit in hits] == ["abcdef"[number] for number in best]
        np.testing.assert_allclose([hit[1] for hit in hits], row[best], atol=1e-6)


def test_a_folder_holds_everything_and_no_path_of_this_machine(
    checkpoint: Path, backbone_folder: object
) -> None:
    names = {path.name for path in checkpoint.iterdir()}
    assert names >= {*HUB_FILES, "config.json", "model.safetensors", "modules.json", "README.md"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        assert "projection.linear.weight" in weights.keys()  # noqa: SIM118
    for path in checkpoint.glob("*.json"):
        assert "/tmp" not in path.read_text(), path.name


def test_a_bfloat16_checkpoint_loads_in_its_dtype(model: FastLaneModel, tmp_path: Path) -> None:
    checkpoint = tmp_path / "half"
    FastLaneModel.from_pretrained(
        model_folder(model, tmp_path), dtype=torch.bfloat16
    ).save_pretrained(checkpoint)
    auto = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    encoder = FastLaneEncoder(checkpoint, model_kwargs={"dtype": torch.bfloat16})
    for one, other in zip(
        auto.encode_query(QUERIES, num_routes=2),
        encoder.encode_query(QUERIES, num_routes=2),
        strict=True,
    ):
        assert one.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(one, other)


def model_folder(model: FastLaneModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "full")
    return tmp_path / "full"


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no FastLane checkpoint \(its config\.json has no"):
        FastLaneEncoder(tmp_path)


def test_another_encoders_folder_is_refused(tmp_path: Path, backbone_folder: object) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = backbone_folder("bert")  # type: ignore[operator]
    transformer = Transformer(str(folder))
    dense = SentenceTransformer(modules=[transformer, Pooling(8)])
    dense.save(str(tmp_path / "dense"))
    with pytest.raises(ValueError, match="is no FastLane checkpoint"):
        FastLaneEncoder(tmp_path / "dense")
