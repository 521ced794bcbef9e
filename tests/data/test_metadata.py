"""Fields of a row that are neither text nor title nor id: metadata, or counted and said."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastlane_st.data.corpus import CorpusDocument, read_corpus
from fastlane_st.data.tables import cell_value


def metadata_of(path: Path, **columns: Any) -> list[dict[str, Any]]:
    return [document.metadata for document in read_corpus(path, **columns)]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_other_columns_of_a_table_become_metadata(
    suffix: str, delimiter: str, tmp_path: Path
) -> None:
    rows = [
        ["id", "text", "title", "year", "lang", "draft"],
        ["1", "t", "5", "2008", "en", "true"],
        ["2", "7", "", "", "de", ""],
    ]
    path = tmp_path / f"c.{suffix}"
    path.write_text("\n".join(delimiter.join(row) for row in rows))
    assert list(read_corpus(path)) == [
        CorpusDocument("1", "t", "5", {"year": 2008, "lang": "en", "draft": True}),
        CorpusDocument("2", "7", "", {"lang": "de"}),
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("-0", 0),
        ("12.50", 12.5),
        ("1e3", 1000.0),
        ("007", "007"),
        ("+1", "+1"),
        (" 1", " 1"),
        ("٣", "٣"),
        ("1e999", "1e999"),
        ("NaN", "NaN"),
        ("null", "null"),
        ("False", "False"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_cell_is_a_number_only_as_json_writes_it(cell: str, value: object) -> None:
    assert (cell_value(cell), type(cell_value(cell))) == (value, type(value))


def test_columns_for_text_and_id_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("url,body,text,id\nu1,hello,5,9\n")
    [document] = read_corpus(path, text_column="body", id_column="url")
    assert document == CorpusDocument("u1", "hello", metadata={"text": 5, "id": 9})
    rows = tmp_path / "c.jsonl"
    rows.write_text('{"url": 7, "title": "t"}\n')
    assert list(read_corpus(rows, text_column="title", id_column="url")) == [
        CorpusDocument("7", "t")
    ]
    pq.write_table(pa.table({"key": ["a"], "body": ["t"], "year": [1999]}), tmp_path / "c.parquet")
    [document] = read_corpus(tmp_path / "c.parquet", text_column="body", id_column="key")
    assert document == CorpusDocument("a", "t", metadata={"year": 1999})
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl").write_text('{"body": "t"}\n')
    assert list(read_corpus(beir, text_column="body")) == [CorpusDocument("0", "t")]


@pytest.mark.parametrize(
    ("name", "data", "columns", "message"),
    [
        ("c.csv", "a,b\n1,2\n", {}, r"c\.csv:1: no 'text' among .*'a', 'b': .*with text_column"),
        (
            "c.csv",
            "text\n1\n",
            {"id_column": "url"},
            r"c\.csv:1: no 'url' among the columns 'text'",
        ),
        ("c.jsonl", '{"b": "t"}', {"text_column": "body"}, r"c\.jsonl:1: no 'body', which each"),
        ("c.jsonl", '{"text": "t"}', {"id_column": "url"}, r"c\.jsonl:1: no 'url', which was to"),
        (
            "folder/c.txt",
            "t",
            {"text_column": "body"},
            "name fields of rows, and a folder of texts",
        ),
    ],
)
def test_columns_that_are_not_there_are_named(
    name: str, data: str, columns: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(data)
    with pytest.raises(ValueError, match=message):
        list(read_corpus(path.parent if name.endswith(".txt") else path, **columns))


def test_fields_beside_the_metadata_object_are_metadata(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"text": "", "year": 2008, "draft": null, "metadata": {"lang": "en", "year": 2008}}\n'
        '{"text": "", "metadata": "a text"}\n{"text": "", "metadata": null}\n'
    )
    assert metadata_of(path) == [
        {"lang": "en", "year": 2008, "draft": None},
        {"metadata": "a text"},
        {},
    ]
    path.write_text('{"text": "", "year": 2008, "metadata": {"year": 2009}}\n')
    with pytest.raises(
        ValueError, match=r"c\.jsonl:1: 'year' is 2009 in 'metadata' and 2008 beside"
    ):
        metadata_of(path)
    path.write_text('{"text": "", "lang": "\\ud83d"}\n')
    with pytest.raises(ValueError, match=r"c\.jsonl:1: 'lang' is no valid Unicode"):
        metadata_of(path)


def test_what_metadata_cannot_hold_is_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.jsonl"
    rows = [
        {"text": "", "tags": ["a"], "metadata": {"authors": ["b"], "n": 1}},
        {"text": "", "tags": ["c"], "place": {"lat": 1}, "$x": 1, "n": float("inf")},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert metadata_of(path) == [{"n": 1}, {}]
    [message] = caplog.messages
    assert message.startswith(
        f"{path}: metadata holds texts, finite numbers, true, false and null;"
    )
    assert message.endswith(
        "left out: 'authors' (a list) of 1, 'tags' (a list) of 2, 'place' (an object) of 1, "
        "'$x' (no name of a field: it is empty or starts with $) of 1, 'n' (not finite) of 1"
    )
    caplog.clear()
    assert metadata_of(path, log=False) == [{"n": 1}, {}]
    assert caplog.messages == []


def test_the_unnamed_column_that_pandas_writes_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.csv"
    path.write_text(",text,year\n0,a,1\n1,b,2\n")
    assert metadata_of(path) == [{"year": 1}, {"year": 2}]
    assert "'' (no name of a field" in caplog.text


def test_parquet_keeps_types_and_leaves_nulls_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = datetime.datetime(2024, 1, 2, 3, 4, 5)
    table = pa.table(
        {
            "text": ["a", "b"],
            "year": [2008, None],
            "share": [0.5, float("nan")],
            "is_draft": [True, False],
            "code": ["007", None],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "day": [time.date(), None],
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)),
            "at": pa.array([time, None], pa.timestamp("ns")),
            "metadata": [{"lang": "en", "n": None}, {"lang": None, "n": 3}],
            "vector": [[1.0], [2.0]],
            "raw": [b"x", b"y"],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    first, second = metadata_of(tmp_path / "c.parquet")
    assert first == {
        "lang": "en",
        "year": 2008,
        "share": 0.5,
        "is_draft": True,
        "code": "007",
        "kind": "x",
        "day": "2024-01-02",
        "price": 1.5,
        "at": "2024-01-02T03:04:05",
    }
    assert second == {"n": 3, "is_draft": False, "kind": "y"}
    assert "'vector' (list<element: double>) of 2, 'raw' (binary) of 2" in caplog.text
    assert "'share' (not finite) of 1" in caplog.text
