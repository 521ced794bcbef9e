"""Long documents as windows: one view a token, spans, and the same index whichever way it is built."""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable
from copy import copy, deepcopy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.adapters import lora_config
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index import feed
from fastlane_st.index.adding import add_to_folder
from fastlane_st.index.building import build_folder, encoding_processes
from fastlane_st.index.encoding import Encoding
from fastlane_st.index.storage import manifest
from fastlane_st.index.storage.segment_files import sync_and_hash
from fastlane_st.index.tokens import SideTokenizer
from fastlane_st.index.windows import Window, best_span, split_text
from fastlane_st.modeling.search_fastlane import Match, Views
from tests.conftest import WORDS, build_model
from tests.support.encoders import WordEncoder

LONG = " ".join(
    random.Random(0).choices(WORDS, k=60)
)  # documents have 10 tokens beside [CLS], [SEP]
SHORT = "sort a list of number in time"
FEW = " ".join(WORDS[:11])  # one token too long


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def views_of(encoder: Any, text: str, **options: Any) -> Views:
    [encoded] = Encoding(encoder, chunk_size=3, **options).encoded([text], ["a"])
    return encoded.views


def windows_of(encoder: Any, text: str) -> list[Window]:
    tokenizer = SideTokenizer.of(encoder, "document")
    assert tokenizer is not None
    return list(split_text(text, tokenizer))


def by_hand(encoder: Any, text: str) -> tuple[np.ndarray, list[int]]:
    """Encodes each window as a text, and takes of every token the view furthest from a window's edge."""
    tokens = text.split()
    best: dict[int, tuple[int, np.ndarray]] = {}
    starts = [text[: window.start].count(" ") for window in windows_of(encoder, text)]
    for window, start in zip(windows_of(encoder, text), starts, strict=True):
        part = text[window.start : window.end].split()
        assert tokens[start : start + len(part)] == part
        vectors = encoder.encode_document(" ".join(part), num_routes=None).float().numpy()
        for place, vector in enumerate(vectors):
            left = len(tokens) if start == 0 else place
            right = len(tokens) if start + len(part) == len(tokens) else len(part) - 1 - place
            near = min(left, right)
            if near > best.get(start + place, (-1, vector))[0]:
                best[start + place] = (near, vector)
    return np.stack([best[place][1] for place in range(len(tokens))]), starts


# Views


@pytest.mark.parametrize("text", [LONG, FEW, " ".join(WORDS * 5)])
def test_views_are_those_of_windows_encoded_by_hand(encoder: FastLaneEncoder, text: str) -> None:
    views = views_of(encoder, text)
    expected, starts = by_hand(encoder, text)
    assert views.positions.tolist() == list(range(1, len(text.split()) + 1))
    np.testing.assert_allclose(views.vectors, expected, atol=1e-5)
    assert all(later - start == 8 for start, later in pairwise(starts))


def test_a_text_of_the_encoders_length_is_no_long_one(encoder: FastLaneEncoder) -> None:
    whole = " ".join(WORDS[:10])
    [encoded] = Encoding(encoder).encoded([whole], ["a"])
    assert encoded.windows == ()
    np.testing.assert_allclose(encoded.views.vectors, encoder.encode_document(whole), atol=1e-6)
    [encoded] = Encoding(encoder).encoded([FEW], ["a"])
    assert [(one.start, one.end) for one in encoded.windows] == [
        (0, len(whole)),
        (FEW.index(WORDS[8] + " " + WORDS[9]), len(FEW)),
    ]


def test_every_family_has_one_view_for_every_token(any_model: FastLaneModel) -> None:
    for text in (LONG, FEW):
        views = views_of(any_model, text)
        assert views.positions.tolist() == list(range(1, len(text.split()) + 1))


@pytest.mark.parametrize("num_routes", [1, 3, 0.25])
def test_routed_windows_lose_no_route_and_repeat_no_token(
    encoder: FastLaneEncoder, num_routes: float
) -> None:
    positions = views_of(encoder, LONG, num_routes=num_routes).positions
    assert (np.diff(positions) > 0).all()
    routed = set()
    for window in windows_of(encoder, LONG):
        features: Any = encoder.encode_document(
            [LONG[window.start : window.end]], num_routes=num_routes, output_value=None
        )
        places = features[0]["attention_mask"].nonzero()[:, 0].cpu().numpy()
        routed |= set((places - window.skipped + window.first).tolist())
    assert set(positions.tolist()) == routed


def test_prompts_and_special_tokens_have_the_views_of_the_first_window_alone(
    model: FastLaneModel,
) -> None:
    prompted = copy(model)
    prompted.config = deepcopy(model.config)
    prompted.config.document_prompt = "python file "
    assert views_of(prompted, LONG).positions.tolist() == list(range(1, 63))
    prompted.config.use_special_tokens = True
    views = views_of(prompted, LONG)
    assert views.positions.tolist() == list(range(64))  # [CLS], prompt, 60 words, [SEP]
    whole = windows_of(prompted, LONG)
    np.testing.assert_allclose(
        views.vectors[:5],
        prompted.encode_document(LONG[: whole[0].end]).numpy()[:5],
        atol=1e-5,
    )


def test_a_prompt_that_fills_the_length_is_named(model: FastLaneModel) -> None:
    prompted = copy(model)
    prompted.config = deepcopy(model.config)
    prompted.config.document_prompt = "python " * 10
    with pytest.raises(
        ValueError, match="12 tokens leave no room for a window beside the document"
    ):
        views_of(prompted, LONG)


# Tokenizers


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Each byte is a token, so that a character may be several; a space belongs to the word after it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["[CLS]", "[SEP]", "[PAD]", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    frame = [("[CLS]", 0), ("[SEP]", 1)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, frame)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over letters, and Chinese characters as words of their own, as BERT has it."""
    letters = [chr(n) for n in range(97, 123)]
    pieces = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", *letters, *(f"##{one}" for one in letters), "東"]
    pieces += ["##ing", "read", "sort", ".", ","]
    tokenizer = Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [("[CLS]", 0), ("[SEP]", 1)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, frame)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


TEXTS = {
    "words": "reading, sorting. read sort ing " * 12,
    "accents": "é naïve café reading " * 15,
    "Chinese": "東京東京、" * 30,
    "emoji": "read 🏙️ 👩‍🚀 sort " * 20,
    "one word": "abcdefghij" * 9,
    "a very long word": "read " * 9 + "x" * 500 + " sort" * 12,
    "spaces": ("read" + " " * 40 + "sort\n\n\t") * 12,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("build", [byte_tokenizer, piece_tokenizer])
@pytest.mark.parametrize("length", [12, 31])
def test_windows_have_the_tokens_of_the_whole_text(
    build: Callable[[], PreTrainedTokenizerFast], text: str, length: int
) -> None:
    side = SideTokenizer(build(), "", length, threading.RLock())
    whole = side.tokenizer(text)["input_ids"]
    if len(whole) <= length:
        assert side.are_long([text]) == [False]
        return
    assert side.are_long([text, "read"]) == [True, False]
    windows = list(split_text(text, side))
    owned: list[int] = []
    for number, window in enumerate(windows):
        ids = side.tokenizer(text[window.start : window.end], truncation=True, max_length=length)[
            "input_ids"
        ]
        assert window.first == len(owned)
        is_last = number + 1 == len(windows)
        count = len(ids) if is_last else windows[number + 1].first - window.first
        owned += ids[window.skipped :][:count]
    assert owned == whole
    assert windows[0].start == 0
    assert windows[-1].end == len(text)


def test_a_character_of_more_tokens_than_a_window_is_named() -> None:
    side = SideTokenizer(byte_tokenizer(), "", 4, threading.RLock())
    with pytest.raises(
        ValueError, match="4 tokens leave room for 2 of a text, fewer than one of its"
    ):
        list(split_text("🏙🏙", side))
    assert len(list(split_text("é" * 9, side))) == 9


@pytest.mark.slow
def test_a_megabyte_is_split_in_little_memory() -> None:
    side = SideTokenizer(piece_tokenizer(), "", 256, threading.RLock())
    text = "read sort , " * 84_000
    tracemalloc.start()
    count = sum(1 for _ in split_text(text, side))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == pytest.approx(3 * 84_000 / 191, rel=0.01)
    assert peak < 2_000_000


# Indexes


def same(one: FastLaneIndex, other: FastLaneIndex) -> None:
    for query in ("sort the list", "json"):
        for num_routes in (1, 2, None):
            found, expected = (index.search(query, num_routes=num_routes) for index in (one, other))
            assert [(hit.id, hit.span, hit.matches) for hit in found] == [
                (
                    hit.id,
                    hit.span,
                    tuple(
                        match._replace(similarity=pytest.approx(match.similarity, abs=1e-5))
                        for match in hit.matches
                    ),
                )
                for hit in expected
            ]


def built(encoder: Any, **options: Any) -> FastLaneIndex:
    return FastLaneIndex.build(encoder, [SHORT, LONG, FEW], ids=["short", "long", "few"], **options)


def test_a_hit_gives_the_span_of_its_best_window(encoder: FastLaneEncoder) -> None:
    index = built(encoder)
    windows = windows_of(encoder, LONG)
    query = index.get(["long"])[0]
    assert query.windows == tuple(windows)
    for hit in index.search("sort the long list", num_routes=1):
        [match] = hit.matches
        if hit.id == "short":
            assert hit.span is None
            assert hit.to_dict()["span"] is None
            continue
        assert hit.span is not None
        assert hit.text is not None
        word = hit.text.split()[match.document_position - 1]
        assert word in hit.text[slice(*hit.span)].split()
        assert hit.to_dict()["span"] == list(hit.span)


def test_the_best_window_is_the_one_whose_matches_sum_highest() -> None:
    windows = (Window(0, 9, 0, 0, 1, 5), Window(7, 20, 5, 2, 1, 6))
    assert best_span(windows, [Match(1, 4, 0.5), Match(2, 5, 0.3), Match(3, 9, 0.3)]) == (7, 20)
    assert best_span(windows, [Match(1, 4, 0.5), Match(2, 5, 0.5)]) == (0, 9)
    assert best_span((), [Match(1, 4, 0.5)]) is None
    assert best_span(windows, []) is None


@pytest.mark.parametrize("memory_map", [False, True])
def test_saved_and_changed_indexes_keep_windows(
    encoder: FastLaneEncoder, tmp_path: Path, memory_map: bool
) -> None:
    index = FastLaneIndex.build(encoder, [SHORT], ids=["short"])
    index.save(tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index", encoder, memory_map=memory_map)
    index.add([LONG], ids=["long"])
    index.save(tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index", encoder, memory_map=memory_map)
    index.add(["set", FEW], ids=["gone", "few"])
    index.delete(["gone"])
    same(index, built(encoder))
    index.save(tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index", encoder, memory_map=memory_map)
    same(index, built(encoder))
    index.compact()
    same(index, built(encoder))
    assert index.get(["long"])[0].windows == tuple(windows_of(encoder, LONG))


def test_an_index_saved_before_there_were_windows_is_read_and_goes_on_cutting(
    encoder: FastLaneEncoder, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    built(encoder, long_texts="cut").save(folder)
    [file] = folder.glob("*.sqlite")
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE windows")
    connection.close()
    saved = manifest.read_manifest(folder)
    del saved["long_texts"], saved["sha256"]
    saved["files"][file.name] = sync_and_hash(file)
    (folder / "index.json").write_text(json.dumps(manifest.with_checksum(saved)))
    index = FastLaneIndex.load(folder, encoder)
    assert index.long_texts == "cut"
    same(index, built(encoder, long_texts="cut"))


def corpus() -> list[CorpusDocument]:
    texts = {"short": SHORT, "long": LONG, "few": FEW}
    return [CorpusDocument(id, text) for id, text in texts.items()]


def test_a_folder_built_and_resumed_has_the_windows_of_one_built_at_once(
    encoder: FastLaneEncoder, tmp_path: Path
) -> None:
    def stopped() -> Any:
        yield from corpus()[:2]
        raise KeyboardInterrupt

    options: dict[str, Any] = {"commit_every": 1}
    with pytest.raises(KeyboardInterrupt):
        build_folder(tmp_path / "index", encoder, stopped(), 3, **options)
    with pytest.raises(ValueError, match=r"long_texts='window', .*not with .*long_texts='cut'"):
        build_folder(
            tmp_path / "index", encoder, corpus(), 3, resume=True, long_texts="cut", **options
        )
    index = build_folder(tmp_path / "index", encoder, corpus(), 3, resume=True, **options)
    same(index, built(encoder))
    same(FastLaneIndex.load(tmp_path / "index", encoder), built(encoder))


def test_documents_that_are_there_are_passed_over_with_their_windows(
    encoder: FastLaneEncoder, tmp_path: Path
) -> None:
    index = built(encoder)
    index.save(tmp_path / "index")
    assert add_to_folder(index, tmp_path / "index", corpus(), resume=True) == 0
    more = [*corpus(), CorpusDocument("more", LONG + " json")]
    assert add_to_folder(index, tmp_path / "index", more, resume=True) == 1
    assert len(index.get(["more"])[0].windows) > 2


def test_few_long_documents_are_encoded_between_two_looks_at_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "_ENCODED_AT_ONCE", 3)
    monkeypatch.setattr(feed, "_CHARACTERS", 10)
    texts = ["car", "bus", "sky", "red" + " red" * 6, "blue", "car" + " car" * 19, "sky"]
    documents = [CorpusDocument(str(number), text) for number, text in enumerate(texts)]
    encoder = WordEncoder()
    progress: Any = SimpleNamespace(update=lambda count: None)
    one = feed.Feed(documents, Encoding(encoder), feed.CommitPace(100, 0.0), progress)
    while one.segment(100, None) is not None:
        pass
    assert one.is_exhausted
    assert [call["texts"] for call in encoder.calls] == [
        texts[:3],
        texts[3:5],
        texts[5:6],
        texts[6:],
    ]


@pytest.mark.slow
def test_processes_give_the_same_windows(encoder: FastLaneEncoder) -> None:
    with encoding_processes(encoder, 2) as pool:
        same(built(encoder, pool=pool), built(encoder))


# What becomes of long texts


def test_long_texts_are_counted_once_a_call(
    encoder: FastLaneEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastlane_st.index.windows")
    index = built(encoder)
    index.upsert([FEW], ids=["few"])
    index.add([SHORT], ids=["other"])
    index.add([LONG], ids=["third"], long_texts="cut")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        (
            "INFO",
            "2 documents are longer than the 12 tokens that the encoder reads: indexed as overlapping "
            "windows",
        ),
        (
            "INFO",
            "1 document is longer than the 12 tokens that the encoder reads: indexed as overlapping "
            "windows",
        ),
        (
            "WARNING",
            "1 document is longer than the 12 tokens that the encoder reads: cut there, and nothing of the "
            "rest will be found",
        ),
    ]
    assert index.long_texts == "window"


def test_cut_texts_are_their_starts(encoder: FastLaneEncoder) -> None:
    index = built(encoder, long_texts="cut")
    starts = [SHORT, " ".join(LONG.split()[:10]), " ".join(FEW.split()[:10])]
    expected = FastLaneIndex.build(encoder, starts, ids=["short", "long", "few"])
    same(index, expected)
    index.upsert([LONG], ids=["long"])  # remembered
    same(index, expected)


@pytest.mark.parametrize("text", [LONG, FEW])
def test_an_error_names_the_document(encoder: FastLaneEncoder, text: str) -> None:
    message = "document 'b' has more than the 12 tokens that the encoder reads: split it"
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.build(encoder, [SHORT, text], ids=["a", "b"], long_texts="error")
    index = FastLaneIndex.build(encoder, [SHORT], ids=["a"], long_texts="error")
    with pytest.raises(ValueError, match=message):
        index.add([text], ids=["b"])
    assert index.ids == ["a"]
    index.add([text], ids=["b"], long_texts="window")


@pytest.mark.parametrize("wrong", ["windows", None, 3])
def test_another_choice_is_an_error(encoder: FastLaneEncoder, wrong: Any) -> None:
    with pytest.raises(ValueError, match='long_texts must be "window", "cut" or "error", got'):
        built(encoder, long_texts=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match='long_texts must be "window", "cut" or "error", got'):
            built(encoder).add([SHORT], long_texts=wrong)


def test_vectors_take_no_choice(encoder: FastLaneEncoder) -> None:
    index = built(encoder)
    with pytest.raises(ValueError, match="long_texts applies to texts, got 'cut' with vectors"):
        index.add([[[0.0] * 4]], long_texts="cut")


def test_another_encoder_cuts_by_itself() -> None:
    index = FastLaneIndex.build(WordEncoder(), ["red car " * 300, "sky"])
    assert index.num_vectors == 601
    assert index.get([0])[0].windows == ()
    with pytest.raises(ValueError, match="long_texts='error' needs the encoder's tokenizer"):
        FastLaneIndex.build(WordEncoder(), ["sky"], long_texts="error")


def test_peft_around_a_model_has_windows(backbone_folder: Callable[[str], Path]) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = build_model(backbone_folder("bert"))
    adapted = peft.get_peft_model(model, lora_config(model))
    views = views_of(adapted, LONG)
    assert views.positions.tolist() == list(range(1, 61))


def test_lengths_and_prompts_of_sentence_transformers_count(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.max_seq_length = 20
    encoder.prompts["document"] = "python "
    side = SideTokenizer.of(encoder, "document")
    assert side is not None
    assert (side.length, side.prompt, side.num_content()) == (20, "python ", 17)
    views = views_of(encoder, LONG)
    assert views.positions.tolist() == list(range(1, 62))
