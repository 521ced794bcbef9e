"""Mining hard negatives: what is chosen, what is dropped, and what reaches the file."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlane_st import FastLaneEncoder
from tests.conftest import WORDS
from tests.support.training import write_rows
from training import mine
from training.data import load_source
from training.negatives import MiningConfig
from training.training_config import Source

Row = dict[str, str]
Mine = Callable[..., dict[str, Any]]


def read_rows(path: Path) -> list[Row]:
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    return [json.loads(line) for line in text.decode().splitlines()]


def negatives_of(row: Row) -> list[str]:
    return [text for name, text in row.items() if name.startswith("negative_")]


def random_texts(count: int, num_words: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randperm(len(WORDS), generator=generator)[:num_words] for _ in range(count))
    return [" ".join(WORDS[i] for i in draw) for draw in draws]


@pytest.fixture
def pairs() -> list[Row]:
    """Twenty rows over sixteen documents: the last four queries stand twice, written otherwise."""
    queries, documents = random_texts(16, 3, seed=0), random_texts(16, 7, seed=1)
    rows = [{"query": q, "positive": p} for q, p in zip(queries, documents, strict=True)]
    return rows + [
        {"query": f" {queries[i].upper()}", "positive": documents[i - 5]} for i in range(4)
    ]


@pytest.fixture
def run(pairs: list[Row], checkpoint: Path, tmp_path: Path) -> Mine:
    """Mines for `pairs` into `tmp_path/mined.jsonl`."""

    def start(
        rows: list[Any] = pairs,
        cap: int | None = None,
        out: str = "mined.jsonl",
        corpus: Path | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> dict[str, Any]:
        source = Source(path=str(write_rows(tmp_path / "pairs.jsonl", rows)), cap=cap)
        config = MiningConfig(**{"num_negatives": 3, "batch_size": 6, **settings})
        found: dict[str, Any] = mine.mine(
            str(checkpoint), source, tmp_path / out, config, corpus, overwrite
        )
        return found

    return start


def positives_of(row: Row, pairs: list[Row]) -> set[str]:
    query = row["query"].strip().lower()
    return {each["positive"] for each in pairs if each["query"].strip().lower() == query}


def mine_by_loop(
    encoder: FastLaneEncoder, pairs: list[Row], config: Any
) -> tuple[list[list[str]], int, Counter[str]]:
    """Each row's negatives, how many rows found their positive, and what was dropped.

    MaxSim is added up from one product after another, of each query with each document.
    """
    documents = {
        row["positive"]: encoder.encode_document(row["positive"], num_routes=config.document_routes)
        for row in pairs
    }
    mined, num_found, dropped = [], 0, Counter(dict.fromkeys(mine.RULES, 0))
    for row in pairs:
        views = encoder.encode_query(row["query"], num_routes=config.num_routes)
        scores = {
            text: sum(max(float(view @ token) for token in tokens) for view in views)
            for text, tokens in documents.items()
        }
        ranked = sorted(scores, key=lambda text: -scores[text])[: config.depth]
        own = scores[row["positive"]]
        factor = config.max_relative_score if own >= 0 else 2 - config.max_relative_score
        kept = []
        for text in ranked:
            if text in positives_of(row, pairs):
                dropped["positive"] += 1
            elif scores[text] > factor * own:
                dropped["score"] += 1
            else:
                kept.append(text)
        dropped["skipped"] += min(config.skip, len(kept))
        mined.append(kept[config.skip :][: config.num_negatives])
        num_found += row["positive"] in ranked
    return mined, num_found, dropped


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 16},
        {"depth": 16, "num_routes": 2, "max_relative_score": 0.9, "skip": 2},
        # Beyond 1 the limit counts where the search, which stops before, doesn't give it.
        {"depth": 5, "max_relative_score": 1.5, "skip": 1},
        {"depth": 6, "max_relative_score": 1.25, "num_routes": None},
        {"depth": 16, "max_relative_score": 0.5, "document_routes": 2},
    ],
)
def test_a_run_agrees_with_a_loop_over_exact_similarities(
    run: Mine, pairs: list[Row], checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = MiningConfig(num_negatives=3, **settings)
    expected, num_found, dropped = mine_by_loop(FastLaneEncoder(checkpoint), pairs, config)
    summary = run(**settings)
    mined = read_rows(tmp_path / "mined.jsonl")
    for row, pair, found in zip(mined, pairs, expected, strict=True):
        assert (row["query"], row["positive"]) == (pair["query"], pair["positive"])
        negatives = negatives_of(row)
        assert negatives[: len(found)] == found
        assert len(set(negatives)) == 3
        assert positives_of(row, pairs).isdisjoint(negatives)
    numbers_filled = [3 - len(found) for found in expected if len(found) < 3]
    assert numbers_filled
    assert summary["dropped"] == dropped
    assert (summary["rows"], summary["documents"]) == (20, 16)
    assert summary["positives_found"] == num_found
    assert summary["filled_rows"] == len(numbers_filled)
    assert summary["filled_documents"] == sum(numbers_filled)


def test_what_is_mined_is_read_for_training_and_made_the_same_again(
    run: Mine, tmp_path: Path
) -> None:
    run(out="new/mined.jsonl.gz")
    dataset = load_source(Source(path=str(tmp_path / "new/mined.jsonl.gz")))
    names = [f"negative_{number}" for number in (1, 2, 3)]
    assert dataset.column_names == ["query", "positive", *names, "origin"]
    assert len(dataset) == 20
    written = (tmp_path / "new/mined.jsonl.gz").read_bytes()
    run(out="new/mined.jsonl.gz", overwrite=True, batch_size=20)
    assert (tmp_path / "new/mined.jsonl.gz").read_bytes() == written
    run(out="new/mined.jsonl.gz", overwrite=True, seed=1)
    assert (tmp_path / "new/mined.jsonl.gz").read_bytes() != written
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["mined.jsonl.gz"]


def test_a_cap_leaves_out_rows_and_nothing_else(
    run: Mine, pairs: list[Row], tmp_path: Path
) -> None:
    run(out="all.jsonl")
    summary = run(out="some.jsonl", cap=7, batch_size=2)
    assert (summary["rows"], summary["documents"]) == (7, 16)
    some = read_rows(tmp_path / "some.jsonl")
    source = Source(path=str(tmp_path / "pairs.jsonl"), cap=7)
    assert [row["query"] for row in some] == list(load_source(source)["query"])
    assert all(row in read_rows(tmp_path / "all.jsonl") for row in some)


def test_a_corpus_adds_documents_that_can_be_found_but_not_drawn(
    run: Mine, pairs: list[Row], tmp_path: Path
) -> None:
    more = [{"title": "json", "text": f"{each} read"} for each in random_texts(40, 4, seed=2)]
    known = {"text": "  ".join(pairs[0]["positive"].upper().split())}
    corpus = write_rows(tmp_path / "corpus.jsonl", [*more, known, {"title": "", "text": " "}])
    summary = run(corpus=corpus, depth=57, max_relative_score=1)
    assert summary["documents"] == 16 + 40
    contents = {f"json {each['text']}" for each in more}
    found = Counter(
        text in contents
        for row in read_rows(tmp_path / "mined.jsonl")
        for text in negatives_of(row)
    )
    assert found[True] > found[False] > 0
    run(corpus=corpus, depth=3, max_relative_score=1e-6, out="drawn.jsonl")
    drawn = read_rows(tmp_path / "drawn.jsonl")
    assert contents.isdisjoint(text for row in drawn for text in negatives_of(row))


def test_an_interrupted_run_leaves_the_file_as_it_was(
    run: Mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_negatives, calls = mine.choose_negatives, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return choose_negatives(*args)

    monkeypatch.setattr(mine, "choose_negatives", interrupted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mined.jsonl").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        run(out="out/mined.jsonl", overwrite=True)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["mined.jsonl"]
    assert (tmp_path / "out" / "mined.jsonl").read_text() == "before"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that loads a model."""
    monkeypatch.setattr(mine, "FastLaneEncoder", lambda name: pytest.fail(f"loaded {name}"))


PAIR = {"query": "q", "positive": "p"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "q\xff", "positive": "p"}\n', r"byte 0xff is not UTF-8"),
        ({"query": "q"}, "no field 'positive'"),
        ({**PAIR, "positive": " "}, "positive is empty"),
        ({**PAIR, "negative": "n"}, "'negative' holds hard negatives already"),
        ({**PAIR, "negatives": ["n"]}, "'negatives' holds hard negatives already"),
        ({**PAIR, "negative_1": "n"}, "'negative_1' holds hard negatives already"),
        (
            {"query": "q", "documents": ["p", "n"], "scores": [2, 1]},
            "'documents' holds hard negatives already",
        ),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_broken_rows_stop_a_run_before_a_model_is_loaded(
    run: Mine, pairs: list[Row], tmp_path: Path, line: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"pairs\.jsonl:2: {message}"):
        run([pairs[0], line, *pairs])
    assert [each.name for each in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.usefixtures("no_model")
def test_sources_with_too_few_documents_stop_a_run(run: Mine, pairs: list[Row]) -> None:
    few = "of 3 distinct documents in the source, 2 can be negatives of this query, expected num_n"
    with pytest.raises(ValueError, match=rf"pairs\.jsonl:1: {few}egatives=3 or more"):
        run(pairs[:3])
    contains_all = {"query": "q", "positive": " ".join(row["positive"] for row in pairs)}
    with pytest.raises(
        ValueError, match=r"pairs\.jsonl:21: of 17 distinct documents in the source,"
    ):
        run([*pairs, contains_all])
    with pytest.raises(ValueError, match=r"pairs\.jsonl holds no rows"):
        run([])


@pytest.mark.usefixtures("no_model")
def test_what_exists_is_not_overwritten(run: Mine, tmp_path: Path) -> None:
    (tmp_path / "mined.jsonl").write_text("before")
    with pytest.raises(ValueError, match=r"mined\.jsonl exists; name another file, or pass --over"):
        run()
    assert (tmp_path / "mined.jsonl").read_text() == "before"


def test_the_command_prints_a_summary_or_what_is_wrong(
    pairs: list[Row],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "faq").mkdir()
    source = write_rows(tmp_path / "faq" / "train.jsonl", pairs)
    out, stats = tmp_path / "mined.jsonl", tmp_path / "stats.json"
    settings = "--num-negatives 2 --num-routes all --document-routes 3 --max-relative-score 0.9"
    command = ["--model", str(checkpoint), "--out", str(out), "--stats", str(stats)]
    command += settings.split()
    assert mine.main([*command, "--source", str(source)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads(stats.read_text())
    assert (summary["source"], summary["rows"], summary["num_routes"]) == ("train", 20, None)
    assert (summary["document_routes"], summary["max_relative_score"]) == (3, 0.9)
    from_file = out.read_text()
    assert mine.main([*command, "--source", str(source)]) == 1
    assert re.fullmatch(r"mine: .*mined\.jsonl exists.*\n", capsys.readouterr().err)
    assert mine.main([*command, "--overwrite", "--dataset", str(tmp_path / "faq")]) == 0
    assert out.read_text() == from_file
    capsys.readouterr()
    assert mine.main([*command, "--overwrite", "--source", "nowhere.jsonl"]) == 1
    assert re.fullmatch(r"mine: .*nowhere\.jsonl.*\n", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        mine.main([*command, "--source", str(source), "--num-routes", "few"])
    assert "expected a number or 'all', got 'few'" in capsys.readouterr().err
