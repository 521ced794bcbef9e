"""Search on a GPU: on a machine without one, FAISS's three functions for it are stood in for."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.index.vectors import gpu, store
from tests.support.vectors import units

Matrix = npt.NDArray[np.float32]


@dataclass
class Copy:
    """What FAISS would hold on a GPU: it finds at most 2,048 vectors, and gives none back."""

    index: Any
    counts: list[int] = field(default_factory=list)

    def search(self, views: Matrix, count: int, *, params: Any) -> Any:
        assert count <= 2048
        self.counts.append(count)
        return self.index.search(views, count, params=params)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Copy]:
    """Every copy that was made, on a machine of two GPUs."""
    made: list[Copy] = []

    def copy_to_gpu(resources: object, device: int, index: Any) -> Copy:
        if isinstance(index, faiss.IndexScalarQuantizer):
            raise RuntimeError("This index type is not implemented on GPU.")
        assert device == 1
        made.append(Copy(faiss.clone_index(index)))
        return made[-1]

    monkeypatch.setattr(store, "PLAIN_UP_TO", 0)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy_to_gpu, raising=False)
    return made


def build(**options: Any) -> FastLaneIndex:
    return FastLaneIndex.from_embeddings([units(8, seed) for seed in range(600)], **options)


@pytest.mark.parametrize(("kind", "storage"), [("flat", "float32"), ("ivf", "int8")])
@pytest.mark.parametrize("top_k", [10, 599])  # 16 * 599 vectors are too many for a GPU
def test_a_gpu_finds_what_the_cpu_finds(
    copies: list[Copy], kind: Any, storage: Any, top_k: int
) -> None:
    index = build(kind=kind, storage=storage)
    index.vectors = replace(index.vectors, effort=100)  # on the CPU, codes are compared first
    queries = [units(1 + seed % 2, 1000 + seed) for seed in range(6)]
    expected = index.search(queries, top_k)
    assert index.to("cuda:1").search(queries, top_k) == expected
    assert len(copies) == (1 if top_k == 10 else 0)
    assert index.to("cpu").search(queries, top_k) == expected


def test_what_is_added_is_copied_and_what_is_gone_is_let_go(copies: list[Copy]) -> None:
    index = build().to("cuda:1")
    query = [units(1, 2000)]
    index.search(query)
    index.search(query)
    assert [copy.counts for copy in copies] == [[160, 160]]
    index.add([query[0]], ids=["new"])
    assert index.search(query)[0][0].id == "new"
    assert [len(copy.counts) for copy in copies] == [3]  # the new segment is small: it is scanned
    assert index._gpu is not None
    assert len(index._gpu._copies) == 1
    index.delete(range(400))
    index._ranker = None
    gc.collect()
    assert len(index._gpu._copies) == 0
    index.search(query)
    assert len(index._gpu._copies) == 1


def test_what_faiss_cannot_hold_there_is_an_error_that_says_what_to_do(copies: list[Copy]) -> None:
    index = build(kind="flat", storage="int8").to("cuda:1")
    with pytest.raises(
        ValueError, match="can't put flat in int8 on a GPU: build the index with kind="
    ):
        index.search([units(1, 0)])


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:2", "cpu:0", "cudas"])
def test_a_wrong_device_is_refused(copies: list[Copy], device: str) -> None:
    with pytest.raises(ValueError, match=r"device must be|there is no GPU cuda:2: FAISS sees 2"):
        build().to(device)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="faiss-gpu is installed")
def test_without_faiss_gpu_the_error_says_what_to_install() -> None:
    with pytest.raises(ImportError, match="needs faiss-gpu, and faiss-cpu is installed"):
        build().to("cuda")


@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="there is no GPU")
def test_on_a_real_gpu() -> None:
    queries = [units(1, 1000 + seed) for seed in range(6)]
    for kind, storage in (("flat", "float32"), ("ivf", "float32"), ("ivf", "int8")):
        index = build(kind=kind, storage=storage)
        expected = [[hit.id for hit in hits] for hits in index.search(queries)]
        found = index.to("cuda").search(queries)
        assert [[hit.id for hit in hits] for hits in found] == expected
    assert gpu.MOST_FOUND == 2048
