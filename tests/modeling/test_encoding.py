"""Encoding as people do it: any collection of texts, several threads, a vocabulary that grew."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from transformers import AutoModel

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.modeling.search_fastlane import ExactIndex
from tests.conftest import DOCUMENTS, QUERIES

LONG = "json loads a string to a dict and reads the file in python with a list"


@pytest.mark.parametrize(
    "collect",
    [
        tuple,
        iter,
        lambda texts: np.array(texts, dtype=object),
        lambda texts: pandas.Series(["", *texts]).drop(0),
        lambda texts: pandas.Series(texts, index=range(len(texts))[::-1]),
    ],
)
def test_texts_are_encoded_by_place(
    model: FastLaneModel, collect: Callable[[list[str]], Any]
) -> None:
    found = model.encode_document(collect(DOCUMENTS))
    for one, expected in zip(found, model.encode_document(DOCUMENTS), strict=True):
        torch.testing.assert_close(one, expected)


def test_a_lone_surrogate_is_an_error_that_says_which_text(
    model: FastLaneModel, checkpoint: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    broken = ["set", "half \ud83d of it"]
    for encode in (model.encode_query, encoder.encode_document):
        with pytest.raises(
            ValueError, match=r"text \d is no valid Unicode: surrogates not allowed"
        ):
            encode(broken)
    for build in (ExactIndex.build, FastLaneIndex.build):
        with pytest.raises(ValueError, match=r"document 1 is no valid Unicode: surrogates .* at 5"):
            build(model, broken)
    index = FastLaneIndex.build(encoder, DOCUMENTS)
    for insert in (index.add, lambda texts: index.update(texts, ids=[0, 1])):
        with pytest.raises(ValueError, match="document 1 is no valid Unicode"):
            insert(broken)
    with pytest.raises(ValueError, match="query 0 is no valid Unicode"):
        index.search(broken[1])


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_threads_that_query_do_not_cut_documents_of_others(
    model: FastLaneModel, checkpoint: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = model if kind == "model" else FastLaneEncoder(checkpoint)
    expected = len(encoder.encode_document([LONG], num_routes=None)[0])
    assert expected > len(encoder.encode_query([LONG], num_routes=None)[0])
    set_length = type(encoder.tokenizer).set_truncation_and_padding

    def pause_between(self: Any, *args: Any, **kwargs: Any) -> None:
        set_length(self, *args, **kwargs)
        time.sleep(0.01)  # time for others to set it

    monkeypatch.setattr(type(encoder.tokenizer), "set_truncation_and_padding", pause_between)
    stop = threading.Event()

    def query() -> None:
        while not stop.is_set():
            encoder.encode_query([LONG])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(query) for _ in range(2)]
        lengths = [len(encoder.encode_document([LONG], num_routes=None)[0]) for _ in range(12)]
        stop.set()
        for each in running:
            each.result()
    assert lengths == [expected] * 12


def test_models_are_copied_and_pickled_with_the_lock_of_their_class(model: FastLaneModel) -> None:
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.tokenizing is model.tokenizing
        torch.testing.assert_close(other.encode_query(QUERIES)[0], model.encode_query(QUERIES)[0])


def test_a_vocabulary_that_grew_is_saved_and_loaded(checkpoint: Path, tmp_path: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.tokenizer.add_tokens(["[ORDER]", "[INVOICE]"], special_tokens=True)
    encoder[0].model.resize_token_embeddings(len(encoder.tokenizer))
    expected = encoder.encode_query(["read the [INVOICE]"], num_routes=None)[0]
    encoder.save_pretrained(tmp_path / "grown")
    for load in (
        FastLaneEncoder,
        FastLaneModel.from_pretrained,
        lambda folder: AutoModel.from_pretrained(folder, trust_remote_code=True),
    ):
        found = load(tmp_path / "grown").encode_query(["read the [INVOICE]"], num_routes=None)[0]
        torch.testing.assert_close(found, expected)
