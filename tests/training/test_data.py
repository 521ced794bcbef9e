"""Sources: the forms of their rows, files and datasets, and errors that name file and line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import as_line, write_rows
from training.data import load_source, load_sources
from training.training_config import Source


def load(*rows: Any, tmp_path: Path, **source: Any) -> Any:
    return load_source(Source(path=str(write_rows(tmp_path / "rows.jsonl", rows)), **source))


PAIR = {"query": "q", "positive": "p"}
SCORED = {"query": "q", "documents": ["a", "b", "c", "d"], "scores": [0.2, 0.9, 0.4, 0.9]}


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        (PAIR, ["q", "p"]),
        ({**PAIR, "id": 7}, ["q", "p"]),
        ({**PAIR, "negative": "n"}, ["q", "p", "n"]),
        ({**PAIR, "negatives": ["m", "n"]}, ["q", "p", "m", "n"]),
        ({**PAIR, "negative_1": "m", "negative_2": "n"}, ["q", "p", "m", "n"]),
        (SCORED, ["q", "b", "c", "a"]),  # of two best documents neither is a negative
    ],
)
def test_rows_become_queries_positives_and_negatives(
    row: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    dataset = load(row, b"\n", row, tmp_path=tmp_path)
    names = ["query", "positive", "negative_1", "negative_2"][: len(texts)]
    assert dataset.column_names == [*names, "origin"]
    assert dataset[1] == dict(zip(names, texts, strict=True)) | {
        "origin": f"{tmp_path / 'rows.jsonl'}:3"
    }


def test_sources_can_be_packed_renamed_cut_and_capped(tmp_path: Path) -> None:
    rows = [{"question": str(n), "positive": f"p{n}", "negatives": ["m", "n"]} for n in range(9)]
    path = tmp_path / "packed.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(as_line(row) for row in rows)))
    source = Source(
        path=str(path), columns={"query": "question"}, num_negatives=1, cap=3, name="short"
    )
    dataset = load_sources([source], batch_size=1)["short"]
    assert dataset.column_names == ["query", "positive", "negative_1", "origin"]
    assert len(set(dataset["query"])) == 3
    assert dataset.to_dict() == load_source(source).to_dict()  # drawn the same each time
    assert dataset.to_dict() != load_source(source, seed=1).to_dict()


def test_datasets_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "faq").mkdir()
    rows = [{"question": "q", "answer": "a"}, {"question": "r", "answer": ""}]
    write_rows(tmp_path / "faq" / "train.jsonl", rows[:1])
    write_rows(tmp_path / "faq" / "test.jsonl", rows)
    columns = {"query": "question", "positive": "answer"}
    source = Source(dataset=str(tmp_path / "faq"), columns=columns)
    assert load_source(source)[0] == {"query": "q", "positive": "a", "origin": "faq:0"}
    broken = Source(dataset=str(tmp_path / "faq"), columns=columns, split="test")
    with pytest.raises(ValueError, match="faq:1: positive is empty"):
        load_source(broken)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "train.jsonl").write_text('{"question": \n')
    with pytest.raises(ValueError, match=r"cut: .*JSON"):
        load_source(Source(dataset=str(tmp_path / "cut")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "q", "positive": \n', r"broken JSON \(Expecting value"),
        (b'{"query": "q\xff", "positive": "p"}\n', r"byte 0xff is not UTF-8 \(invalid start byte"),
        (b'{"query": "\\ud800", "positive": "p"}\n', "query is no valid Unicode"),
        (["q", "p"], "expected a JSON object on each line, got list"),
        ({"query": "q"}, r"no field 'positive'; the row has \['query'\]"),
        ({"positive": "p"}, "no field 'query'"),
        ({**PAIR, "query": " \n"}, "query is empty"),
        ({**PAIR, "query": 7}, "query must be a text, got 7"),
        ({**PAIR, "negatives": "n"}, "negatives must be a list of texts, got 'n'"),
        ({**PAIR, "negatives": ["n", ""]}, r"negatives\[1\] is empty"),
        ({**PAIR, "negative": "p"}, "a hard negative is the positive itself"),
        ({**PAIR, "negative": "n"}, "1 hard negatives, expected 0 as in the rows before"),
        ({**SCORED, "scores": [1, 2]}, "scores must be a list, one for each document"),
        ({**SCORED, "scores": [1, 2, 3, float("nan")]}, "scores must be finite numbers"),
        ({"query": "q", "documents": [], "scores": []}, "documents is empty"),
    ],
)
def test_broken_rows_are_named_by_file_and_line(line: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}"):
        load(PAIR, line, PAIR, tmp_path=tmp_path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl holds no rows"):
        load(b"\n", tmp_path=tmp_path)
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: no column 'question' as `columns` says"):
        load(PAIR, tmp_path=tmp_path, columns={"query": "question"})
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: 0 hard negatives, expected 2"):
        load(PAIR, tmp_path=tmp_path, num_negatives=2)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(as_line(PAIR) * 99)[:-12])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz:\d+: truncated or broken gzip file"):
        load_source(Source(path=str(cut)))
    cut.write_bytes(as_line(PAIR))
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz:1: .*gzip file \(Not a gzipped file"):
        load_source(Source(path=str(cut)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_source(Source(path="nowhere.jsonl"))


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [
        ([PAIR], 2, "source rows has 1 rows, fewer than one batch of 2"),
        ([PAIR], 1, "source rows has no hard negatives, so batch_size must be at least 2"),
        (
            [{"query": "same", "positive": str(n)} for n in range(8)],
            4,
            "source rows has only 1 rows that share no query and no document, fewer than one batch",
        ),
        ([{"query": str(n), "positive": str(n % 3)} for n in range(3, 11)], 4, "only 3 rows"),
        (
            [{"query": f"q{n}", "positive": f"p{n}"} for n in range(9)],
            9,
            "2 processes need a batch",
        ),
    ],
)
def test_sources_that_fill_no_batch_are_refused_before_training(
    rows: list[dict[str, str]], batch_size: int, message: str, tmp_path: Path
) -> None:
    source = Source(path=str(write_rows(tmp_path / "rows.jsonl", rows)))
    with pytest.raises(ValueError, match=message):
        load_sources([source], batch_size, num_processes=2)
