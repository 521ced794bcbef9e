"""One checkpoint folder, three ways in, one result; with and without this package installed."""

from __future__ import annotations

import graphlib
import json
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from fastlane_st import FastLaneEncoder, FastLaneModel
from fastlane_st.model_card.card import render_card
from fastlane_st.modeling import checkpoint_fastlane
from fastlane_st.modeling.checkpoint_fastlane import HUB_FILES
from tests.conftest import DOCUMENTS, QUERIES
from tests.support.checkpoints import (
    Runs,
    assert_same,
    embeddings_of,
    lay_into_hub_cache,
    run_without_package,
)


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


# Without the package


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What a process without the package does with checkpoint folders; each test looks at one block."""
    folder = tmp_path_factory.mktemp("without-package")
    FastLaneEncoder(checkpoint).save_pretrained(folder / "one")
    FastLaneEncoder(folder / "one").save_pretrained(folder / "two")
    lay_into_hub_cache(checkpoint, folder / "cache" / "mine", "org/tiny")
    shutil.copytree(checkpoint, folder / "outlives" / "here")
    return run_without_package(
        {
            name: f"CHECKPOINT = {str(checkpoint)!r}\n{dedent(code)}"
            for name, code in BLOCKS.items()
        },
        folder,
    )


BLOCKS = {
    "again": """
        auto = AutoModel.from_pretrained(CHECKPOINT, trust_remote_code=True)
        assert "transformers_modules" in type(auto).__module__
        auto.save_pretrained("auto-1")
        AutoModel.from_pretrained("auto-1", trust_remote_code=True).save_pretrained("auto-2")
        save_embeddings(AutoModel.from_pretrained("auto-2", trust_remote_code=True), "auto.npz")

        MultiVectorEncoder(CHECKPOINT, trust_remote_code=True).save_pretrained("st-1")
        MultiVectorEncoder("st-1", trust_remote_code=True).save_pretrained("st-2")
        save_embeddings(MultiVectorEncoder("st-2", trust_remote_code=True), "st.npz")

        # Each kind of model's folder is the other's, too.
        save_embeddings(MultiVectorEncoder("auto-2", trust_remote_code=True), "st-of-auto.npz")
        save_embeddings(AutoModel.from_pretrained("st-2", trust_remote_code=True), "auto-of-st.npz")
        """,
    "from-package": """
        save_embeddings(MultiVectorEncoder("../two", trust_remote_code=True), "st.npz")
        save_embeddings(AutoModel.from_pretrained("../two", trust_remote_code=True), "auto.npz")
        """,
    "search": """
        model = AutoModel.from_pretrained(CHECKPOINT, trust_remote_code=True)
        index = model.build_index(DOCUMENTS, ids=list("abcdef"))
        hits = index.search(QUERIES, top_k=2, num_routes=1)
        print(json.dumps([[[hit.id, hit.score] for hit in found] for found in hits]))
        """,
    "cache": """
        where = {"cache_dir": "mine/hub", "trust_remote_code": True}
        model = AutoModel.from_pretrained("org/tiny", **where)
        model.encode_query(QUERIES)
        model.save_pretrained("saved")
        MultiVectorEncoder("saved", trust_remote_code=True).encode_query(QUERIES)
        """,
    "outlives": """
        import shutil
        auto = AutoModel.from_pretrained("./here", trust_remote_code=True)
        st = MultiVectorEncoder("./here", trust_remote_code=True)
        os.mkdir("elsewhere")
        os.chdir("elsewhere")
        auto.encode_query(QUERIES)
        shutil.rmtree("../here")
        auto.encode_query(QUERIES)
        st.encode_query(QUERIES)
        st.save_pretrained("st")
        AutoModel.from_pretrained("st", trust_remote_code=True).encode_query(QUERIES)
        """,
}


@pytest.mark.slow
def test_load_save_load_save_load_holds_without_the_package(
    runs: Runs, expected: dict[str, np.ndarray]
) -> None:
    runs.finished("again")
    for name in ("auto", "st", "st-of-auto", "auto-of-st"):
        assert_same(runs.embeddings("again", f"{name}.npz"), expected)
    for folder in ("auto-2", "st-2"):
        assert_same(embeddings_of(FastLaneEncoder(runs.folder / "again" / folder)), expected)


@pytest.mark.slow
def test_what_the_package_saves_loads_without_it(
    runs: Runs, expected: dict[str, np.ndarray]
) -> None:
    runs.finished("from-package")
    for name in ("auto", "st"):
        assert_same(runs.embeddings("from-package", f"{name}.npz"), expected)


@pytest.mark.slow
def test_a_checkpoint_searches_without_the_package(runs: Runs, checkpoint: Path) -> None:
    found = json.loads(runs.finished("search"))
    encoder = FastLaneEncoder(checkpoint)
    scores = encoder.similarity(
        encoder.encode_query(QUERIES, num_routes=1), encoder.encode_document(DOCUMENTS)
    )
    for row, hits in zip(scores, found, strict=True):
        best = torch.argsort(row, descending=True, stable=True)[:2].tolist()
        assert [hit[0] for hit in hits] == ["abcdef"[number] for number in best]
        np.testing.assert_allclose([hit[1] for hit in hits], row[best], atol=1e-6)


@pytest.mark.slow
def test_a_cache_of_ones_own_is_used_for_every_file(runs: Runs) -> None:
    runs.finished("cache")
    assert not (runs.folder / "hf" / "hub" / "models--org--tiny").exists()


@pytest.mark.slow
def test_a_model_outlives_its_folder_and_the_working_directory(runs: Runs) -> None:
    runs.finished("outlives")
    assert not (runs.folder / "outlives" / "here").exists()


# From the Hub

OLDER = "f" * 40


@pytest.fixture(scope="module")
def hub_runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What a process without the package does with repository org/tiny, of which two commits are cached.

    The head of main is the checkpoint; the other commit's tokenizer doesn't lower its input.
    """
    folder = tmp_path_factory.mktemp("hub")
    lay_into_hub_cache(checkpoint, folder / "hf", "org/tiny")
    other = folder / "other"
    shutil.copytree(checkpoint, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    lay_into_hub_cache(other, folder / "hf", "org/tiny", commit=OLDER, branch=None)
    return run_without_package(HUB_BLOCKS, folder)


HUB_BLOCKS = {
    "by-name": """
        model = AutoModel.from_pretrained("org/tiny", trust_remote_code=True)
        save_embeddings(model, "auto.npz")
        encoder = MultiVectorEncoder("org/tiny", trust_remote_code=True)
        save_embeddings(encoder, "st.npz")
        index = model.build_index(DOCUMENTS, ids=list("abcdef"))
        [hit] = index.search("sort a list of number in time", top_k=1, num_routes=1)
        print(hit.id)
        model.save_pretrained("auto")
        encoder.save_pretrained("st")
        save_embeddings(AutoModel.from_pretrained("st", trust_remote_code=True), "auto-of-st.npz")
        save_embeddings(MultiVectorEncoder("auto", trust_remote_code=True), "st-of-auto.npz")
        """,
    "pinned": f"""
        auto = AutoModel.from_pretrained("org/tiny", revision="{OLDER}", trust_remote_code=True)
        st = MultiVectorEncoder("org/tiny", revision="{OLDER}", trust_remote_code=True)
        main = AutoModel.from_pretrained("org/tiny", trust_remote_code=True)
        for model in (auto, st, main):
            print(model.tokenizer.tokenize("READ a file"))
        auto.save_pretrained("pinned")
        pinned = AutoModel.from_pretrained("pinned", trust_remote_code=True)
        print(pinned.tokenizer.tokenize("READ a file"))
        """,
}


def test_a_repository_loads_by_name_and_searches(
    hub_runs: Runs, expected: dict[str, np.ndarray], model: FastLaneModel
) -> None:
    index = model.build_index(DOCUMENTS, ids=list("abcdef"))
    [hit] = index.search("sort a list of number in time", top_k=1, num_routes=1)
    assert hub_runs.finished("by-name") == f"{hit.id}\n"
    for name in ("auto", "st", "auto-of-st", "st-of-auto"):
        assert_same(hub_runs.embeddings("by-name", f"{name}.npz"), expected)


def test_a_pinned_revision_brings_its_own_tokenizer(hub_runs: Runs) -> None:
    older, newer = "['[UNK]', 'a', 'file']", "['read', 'a', 'file']"
    assert hub_runs.finished("pinned").splitlines() == [older, older, newer, older]


# What a folder holds


ALLOWED = {
    *("faiss", "filelock", "huggingface_hub", "numpy", "safetensors", "sentence_transformers"),
    *("tokenizers", "torch", "tqdm", "transformers"),
}
PLATFORM_ONLY = {
    *("_winapi", "curses", "fcntl", "grp", "msvcrt", "nt", "posix", "pty", "pwd", "readline"),
    *("resource", "syslog", "termios", "tty", "winreg", "winsound"),
}


SOURCES = Path(checkpoint_fastlane.__file__).parent


def test_every_source_file_travels_and_none_imports_in_a_circle() -> None:
    # Imports for type checkers count, too.
    assert set(HUB_FILES) == {path.name for path in SOURCES.glob("*_fastlane.py")}
    imports = {
        name: [f"{other}.py" for other in get_relative_imports(SOURCES / name)]
        for name in HUB_FILES
    }
    assert set(graphlib.TopologicalSorter(imports).static_order()) == set(HUB_FILES)


def test_what_travels_imports_only_what_its_users_have() -> None:
    # transformers asks for every import outside of a try block, those inside functions too.
    everywhere = sys.stdlib_module_names - PLATFORM_ONLY
    for name in HUB_FILES:
        asked = set(get_imports(SOURCES / name)) - everywhere
        assert asked <= ALLOWED, name
        assert "sentence_transformers" not in asked or name == "st_fastlane.py"


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


def test_a_card_goes_with_the_weights_that_it_describes(checkpoint: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    shutil.copytree(checkpoint, measured)
    (measured / "README.md").write_text("# Measured\n\nnDCG@10 is .987\n")
    same = FastLaneModel.from_pretrained(measured)
    same.save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / "README.md").read_text() == "# Measured\n\nnDCG@10 is .987\n"
    fresh = FastLaneModel(same.config)
    fresh.save_pretrained(tmp_path / "fresh")
    assert (tmp_path / "fresh" / "README.md").read_text() == render_card(fresh.config)


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
