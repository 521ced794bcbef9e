"""Encoding as people do it: any collection of texts, several threads, a vocabulary that grew."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModel, PreTrainedTokenizerFast

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.modeling.encoding_fastlane import tokenize_starts
from fastlane_st.modeling.routing_fastlane import Task
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
def test_batches_hold_texts_of_like_numbers_of_tokens(
    model: FastLaneModel, checkpoint: Path, kind: str
) -> None:
    encoder: Any = model if kind == "model" else FastLaneEncoder(checkpoint)
    few, many = ["internationalisation"], ["a b c d e f g h"]  # more characters, fewer tokens
    counts = [model.count_tokens(text) for text in (*few, *many)]
    assert counts[0] < counts[1]
    shapes: list[torch.Size] = []
    watched = model if kind == "model" else encoder[0].model
    handle = watched.backbone.register_forward_pre_hook(
        lambda _, args, options: shapes.append(options["input_ids"].shape), with_kwargs=True
    )
    try:
        found = encoder.encode_document([*few, *many] * 4, batch_size=4)
    finally:
        handle.remove()
    assert [tuple(shape) for shape in shapes] == [(4, max(counts)), (4, min(counts))]
    for text, one in zip([*few, *many] * 4, found, strict=True):
        torch.testing.assert_close(one, encoder.encode_document(text), rtol=0, atol=1e-6)


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


# Texts of which only the start is tokenised


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # a word of 101 letters is unknown
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def sentence_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def unsplit_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    return tokenizer


TRAINERS: dict[Callable[[], Tokenizer], Any] = {
    word_piece: trainers.WordPieceTrainer,
    byte_pairs: trainers.BpeTrainer,
    sentence_pieces: trainers.UnigramTrainer,
    unsplit_pieces: trainers.UnigramTrainer,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module", params=TRAINERS, ids=lambda make: make.__name__)
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    tokenizer = request.param()
    settings = {"unk_token": "[UNK]"} if "pieces" in request.param.__name__ else {}
    trainer = TRAINERS[request.param](
        vocab_size=120, special_tokens=SPECIAL, show_progress=False, **settings
    )
    tokenizer.train_from_iterator([*DOCUMENTS, *QUERIES, "naïve 中文 🙂"], trainer)
    frame = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, frame)
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


ODD = {
    "words": "json loads a string " * 500,
    "one word": "a" * 100_000,
    "one word after others": "sort a list " + "json" * 25_000,
    "others after a long word": "a" * 3_000 + " sort a list" * 500,
    "long words": ("parse" * 30 + " ") * 200,
    "spaces": "read" + " " * 50_000 + "a file",
    "spaces alone": " " * 50_000,
    "leading spaces": " " * 150 + "read a file " * 300,
    "lines": "read a file\r\n\t\n" * 500,
    "control characters": "read\x1ca\x1cfile\x1c " * 500,
    "spaces of other kinds": "read\u00a0a\u3000file\u2028" * 500,
    "emoji": "👩\u200d👩\u200d👧 🙂" * 2_000,
    "emoji without spaces": "🙂" * 5_000,
    "Chinese": "中文" * 5_000,
    "combining marks": "e" + "\u0301" * 5_000 + " set" * 500,
    "marks after spaces": "set \u0301" * 2_000,
    "special tokens": "read [SEP] a[MASK]file [PAD] " * 500,
    "special tokens without spaces": "[SEP]" * 5_000,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("length", [3, 32])
def test_the_start_of_a_text_is_tokenised_as_the_whole(
    name: str, length: int, any_tokenizer: PreTrainedTokenizerFast
) -> None:
    def whole(texts: Sequence[str]) -> dict[str, Any]:
        options = {"padding": True, "truncation": True, "max_length": length}
        return dict(any_tokenizer(list(texts), **options, return_tensors="pt"))

    texts = [ODD[name], *QUERIES]
    found, expected = tokenize_starts(any_tokenizer, texts, length, whole), whole(texts)
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found["attention_mask"].tolist() == expected["attention_mask"].tolist()


@given(
    st.text(alphabet="ab 中é\u0301\n\t\x1c\u00a0[]SEP🙂", max_size=40).map(lambda part: part * 40)
)
def test_the_start_of_any_text_is_tokenised_as_the_whole(
    any_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    def whole(texts: Sequence[str]) -> dict[str, Any]:
        options = {"padding": True, "truncation": True, "max_length": 7}
        return dict(any_tokenizer(list(texts), **options, return_tensors="pt"))

    found = tokenize_starts(any_tokenizer, [text], 7, whole)["input_ids"]
    assert found.tolist() == whole([text])["input_ids"].tolist()


@pytest.mark.parametrize("side", ["query", "document"])
def test_only_the_start_of_a_long_text_reaches_the_tokenizer(
    side: Task, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "sort a list of number " * 50_000
    encoder = FastLaneEncoder(checkpoint)
    model = FastLaneModel.from_pretrained(checkpoint)
    expected = getattr(model, f"encode_{side}")(text[:2_000])
    longest = []
    tokenize = PreTrainedTokenizerFast._encode_plus

    def watched(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        longest.append(max(map(len, text)))
        return tokenize(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", watched)
    for each in (encoder, model):
        torch.testing.assert_close(getattr(each, f"encode_{side}")(text), expected)
    assert longest
    assert max(longest) < 1_000


def test_a_token_with_a_space_is_not_cut_in_two(model: FastLaneModel) -> None:
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens(["python or json"])
    own = "python or json " * 100
    options = {"padding": True, "truncation": True, "max_length": 4, "return_tensors": "pt"}
    for text in (own, "set " + own, "in " * 5 + own):
        found = tokenize_starts(tokenizer, [text], 4, lambda texts: tokenizer(texts, **options))
        assert found["input_ids"].tolist() == tokenizer([text], **options)["input_ids"].tolist()


def test_route_layers_are_asked_for_the_routes_alone(
    backbone_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FastLaneEncoder.from_backbone(
        backbone_folder("bert"), embedding_dim=8, num_route_layers=1
    )
    model = encoder[0].model
    torch.nn.init.normal_(model.route_layers.output)
    expected = [model.route(model(**model.tokenize(QUERIES, "query")), "query", k) for k in (1, 2)]
    asked: list[int] = []
    compute = model.route_layers.forward

    def forward(states: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        asked.append(tokens.shape[1])
        return compute(states, mask, tokens)

    monkeypatch.setattr(model.route_layers, "forward", forward)
    for encode in (encoder.encode_query, model.encode_query):
        for count, (views, routes) in enumerate(expected, start=1):
            for found, row, kept in zip(
                encode(QUERIES, num_routes=count), views, routes, strict=True
            ):
                torch.testing.assert_close(torch.as_tensor(found), row[kept].detach())
        encode(QUERIES, num_routes=None)
    assert asked == [1, 2, 1, 2]
