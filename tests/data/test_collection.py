"""Reading and limiting judged collections."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fastlane_st.data.collection import read_collection
from tests.support.collections import collection_of

HEADER = "query-id\tcorpus-id\tscore"


def write_folder(folder: Path, qrels: str, split: str = "test", suffix: str = ".jsonl") -> Path:
    rows = {
        "corpus": [{"_id": f"d{n}", "title": "t", "text": f"text {n}"} for n in range(4)],
        "queries": [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)],
    }
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        data = "\n".join(map(json.dumps, found)).encode()
        path = folder / f"{name}{suffix}"
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    (folder / "qrels" / f"{split}.tsv").write_text(qrels)
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_folder_gives_documents_judged_queries_and_grades(tmp_path: Path, suffix: str) -> None:
    qrels = f"{HEADER}\nq2\td1\t2\nq2\td0\t0\nq0\td3\t1\n"
    found = read_collection(write_folder(tmp_path / "tiny", qrels, suffix=suffix))
    assert (found.name, found.split) == ("tiny", "test")
    assert list(found.documents.items())[1] == ("d1", "t text 1")
    assert found.queries == {"q0": "query 0", "q2": "query 2"}
    assert found.qrels == {"q0": {"d3": 1}, "q2": {"d1": 2, "d0": 0}}


def test_the_split_is_the_only_one_or_test_or_the_one_named(tmp_path: Path) -> None:
    qrels = f"{HEADER}\nq0\td0\t1\n"
    folder = write_folder(tmp_path, qrels, split="dev")
    assert read_collection(folder).split == "dev"
    write_folder(tmp_path, qrels, split="test")
    assert read_collection(folder).split == "test"
    assert read_collection(folder, "dev").split == "dev"
    with pytest.raises(FileNotFoundError, match=r"train\.tsv: no such split; there: dev, test"):
        read_collection(folder, "train")


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (f"{HEADER}\nq0\td0\t1\nq9\td0\t1\n", r"test\.tsv:3: the query 'q9' is not in"),
        (f"{HEADER}\nq0\td9\t1\n", r"test\.tsv:2: the document 'd9' is not in the corpus"),
        (f"{HEADER}\nq0\td0\t1\nq0\td0\t2\n", r"test\.tsv:3: 'q0' and 'd0' were judged before"),
        (f"{HEADER}\nq0\td0\n", r"test\.tsv:2: expected query, document and grade between tabs"),
        (f"{HEADER}\nq0\td0\tgood\n", r"test\.tsv:2: the grade must be an integer, got 'good'"),
        ("q0\td0\t1\n", r"test\.tsv:1: no header"),
        (f"{HEADER}\n", r"test\.tsv: holds no judgement"),
        ("", r"test\.tsv: holds no judgement"),
    ],
)
def test_broken_judgements_name_file_and_line(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_collection(write_folder(tmp_path, qrels))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_collection(tmp_path / "absent")
    folder = write_folder(tmp_path, f"{HEADER}\nq0\td0\t1\n")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds neither queries\.jsonl nor queries\.jsonl"):
        read_collection(folder)


def test_a_limited_collection_keeps_every_judged_document() -> None:
    whole = collection_of({"q": {"c": 1}, "r": {"f": 1, "b": 0}, "s": {"a": 1}}, "abcdefgh")
    small = whole.limit(num_queries=2, num_documents=4)
    assert list(small.queries) == list(small.qrels) == ["q", "r"]
    assert list(small.documents) == ["a", "b", "c", "f"]
    assert list(whole.limit(num_documents=1).documents) == ["a", "b", "c", "f"]
    assert whole.limit() == whole
    with pytest.raises(ValueError, match="num_queries must be a positive integer or None, got 0"):
        whole.limit(num_queries=0)


def test_judgements_that_are_not_utf8_name_file_and_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "")
    (folder / "qrels" / "test.tsv").write_bytes(f"{HEADER}\nq0\td0\t1\nq\xe9\t".encode("latin-1"))
    with pytest.raises(ValueError, match=r"test\.tsv:3: byte 0x.. is not UTF-8 \(invalid cont"):
        read_collection(folder)
