"""Reading a corpus: every format gives the same documents, every fault names its place."""

import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastlane_st.data.corpus import CorpusDocument, read_corpus

DOCUMENTS = [
    CorpusDocument("7", 'Łódź, 東京 and "quotes",\nover two lines\tand a tab', "Städte 🏙"),
    CorpusDocument("beta", "", ""),
    CorpusDocument("c/3", "plain\u2028text", 'a "title", with\nbreaks'),
]


def write_jsonl(path: Path, documents: list[CorpusDocument]) -> None:
    lines = [{"_id": d.id, "title": d.title, "text": d.text} for d in documents]
    data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    write_bytes(path, data.encode())


def write_delimited(path: Path, documents: list[CorpusDocument]) -> None:
    plain = path.with_name("plain")
    with plain.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name else ",")
        writer.writerow(["title", "_id", "text"])
        writer.writerows([d.title, d.id, d.text] for d in documents)
    write_bytes(path, plain.read_bytes())


def write_parquet(path: Path, documents: list[CorpusDocument]) -> None:
    rows = [{"text": d.text, "_id": d.id, "title": d.title} for d in documents]
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_bytes(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def read(path: Path) -> list[CorpusDocument]:
    return list(read_corpus(path))


# --- what is read


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("corpus.jsonl", write_jsonl),
        ("corpus.jsonl.gz", write_jsonl),
        ("Corpus.JSONL", write_jsonl),
        ("corpus.csv", write_delimited),
        ("corpus.csv.gz", write_delimited),
        ("corpus.tsv", write_delimited),
        ("corpus.tsv.gz", write_delimited),
        ("corpus.parquet", write_parquet),
    ],
)
def test_every_row_format_gives_the_same_documents(
    tmp_path: Path, name: str, write: Callable[[Path, list[CorpusDocument]], None]
) -> None:
    write(tmp_path / name, DOCUMENTS)
    assert read(tmp_path / name) == DOCUMENTS
    assert list(read_corpus(str(tmp_path / name))) == DOCUMENTS


def test_a_folder_of_texts_gives_the_same_documents_as_rows_without_titles(tmp_path: Path) -> None:
    documents = [
        CorpusDocument("a.txt", "naïve\r\ncafé"),
        CorpusDocument("notes/b.md", "# b\n"),
        CorpusDocument("notes/deep/c.RST", ""),
    ]
    for document in documents:
        write_bytes(tmp_path / "texts" / document.id, document.text.encode())
    write_jsonl(tmp_path / "same.jsonl", documents)
    assert read(tmp_path / "texts") == read(tmp_path / "same.jsonl") == documents


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_beir_folder_gives_its_corpus_and_not_its_other_files(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / name, DOCUMENTS)
    (tmp_path / "queries.jsonl").write_text("not read")
    (tmp_path / "readme.md").write_text("not read")
    assert read(tmp_path) == DOCUMENTS


def test_hidden_and_other_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    for name in (".hidden.txt", ".git/notes.txt", "image.png", "page.html"):
        write_bytes(tmp_path / name, b"\xff")
    write_bytes(tmp_path / "kept.txt", b"kept")
    assert read(tmp_path) == [CorpusDocument("kept.txt", "kept")]


def test_a_hidden_parent_of_the_folder_hides_nothing(tmp_path: Path) -> None:
    write_bytes(tmp_path / ".cache" / "docs" / "a.txt", b"kept")
    assert read(tmp_path / ".cache" / "docs") == [CorpusDocument("a.txt", "kept")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.jsonl", b'{"text": "t"}'),
        ("c.jsonl.gz", b'{"text": "t"}'),
        ("c.csv", b"text\r\nt\r\n"),
        ("c.tsv", b"text\nt"),
        ("folder/c.txt", b"t"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, data: bytes) -> None:
    path = write_bytes(tmp_path / name, b"\xef\xbb\xbf" + data)
    (document,) = read(path.parent if name.endswith(".txt") else path)
    assert document.text == "t"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.jsonl", '{"text": "a"}\n\n  \n{"text": "b", "title": null}\n'),
        ("c.csv", "text\na\n\nb\n"),
        ("c.tsv", "title\ttext\n\ta\n\tb\n"),
    ],
)
def test_rows_without_an_id_are_numbered_from_zero(tmp_path: Path, name: str, data: str) -> None:
    path = write_bytes(tmp_path / name, data.encode())
    assert read(path) == [CorpusDocument("0", "a"), CorpusDocument("1", "b")]


def test_parquet_rows_without_an_id_are_numbered_across_batches(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(2500)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "c.parquet", row_group_size=700)
    assert read(tmp_path / "c.parquet") == [CorpusDocument(str(n), t) for n, t in enumerate(texts)]


def test_integer_ids_become_strings(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "c.jsonl", b'{"_id": 12, "text": "t"}\n{"id": -1, "text": "t"}')
    assert [document.id for document in read(path)] == ["12", "-1"]
    pq.write_table(pa.table({"id": [3, 4], "text": ["a", "b"]}), tmp_path / "c.parquet")
    assert [document.id for document in read(tmp_path / "c.parquet")] == ["3", "4"]


def test_beir_ids_come_before_plain_ids(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "c.csv", b"id,_id,text\nplain,beir,t\n")
    assert read(path) == [CorpusDocument("beir", "t", metadata={"id": "plain"})]


def test_a_field_longer_than_the_csv_default_is_read(tmp_path: Path) -> None:
    text = "word " * 40_000
    path = write_bytes(tmp_path / "c.csv", f"text\n{text}\n".encode())
    assert read(path) == [CorpusDocument("0", text)]


def test_documents_before_a_fault_are_yielded(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "c.jsonl", b'{"_id": "a", "text": "t"}\nbroken')
    documents = read_corpus(path)
    assert next(documents) == CorpusDocument("a", "t")
    with pytest.raises(ValueError, match=r"c\.jsonl:2: broken JSON"):
        next(documents)


def test_content_is_title_and_text_stripped() -> None:
    assert CorpusDocument("d", "text", "title").content == "title text"
    assert CorpusDocument("d", " text\n").content == "text"
    assert CorpusDocument("d", "", "title").content == "title"


# --- what is refused


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.jsonl", b'{"text": "a"}\n\n{"text": \n', r"c\.jsonl:3: broken JSON .*one JSON object"),
        ("c.jsonl", b'{"text": "a"} {"text": "b"}', r"c\.jsonl:1: broken JSON"),
        ("c.jsonl", b"[" * 100_000, r"c\.jsonl:1: broken JSON"),
        ("c.jsonl", b'{"text": ' + b"1" * 5000 + b"}", r"c\.jsonl:1: (broken JSON|'text' must)"),
        ("c.jsonl", b'{"text": "a"}\n["a"]', r"c\.jsonl:2: expected a JSON object .*got list"),
        ("c.jsonl", b'{"_id": "a", "body": "t"}', r"c\.jsonl:1: no 'text'.*got '_id', 'body'"),
        ("c.jsonl", b"{}", r"c\.jsonl:1: no 'text'.*got no field"),
        ("c.jsonl", b'{"text": null}', r"c\.jsonl:1: 'text' must be a string, got NoneType"),
        ("c.jsonl", b'{"text": 3}', r"c\.jsonl:1: 'text' must be a string, got int"),
        ("c.jsonl", b'{"text": "t", "title": 3}', r"c\.jsonl:1: 'title' must be a string, got int"),
        ("c.jsonl", b'{"text": "\\ud83d"}', r"c\.jsonl:1: 'text' is no valid Unicode"),
        ("c.jsonl", b'{"_id": 1.5, "text": ""}', r"c\.jsonl:1: '_id' must be .*integer, got float"),
        ("c.jsonl", b'{"_id": true, "text": ""}', r"c\.jsonl:1: '_id' must be .*integer, got bool"),
        ("c.jsonl", b'{"_id": "", "text": "t"}', r"c\.jsonl:1: '_id' is empty"),
        ("c.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', r"c\.jsonl:2: byte 0xe9 is not UTF-8"),
        ("c.jsonl.gz", b'{"text": "a"}\n\n7', r"c\.jsonl\.gz:3: expected a JSON object .*got int"),
        ("c.csv", b"_id,text\n1,a\n2,b,c\n", r"c\.csv:3: expected 2 fields .*got 3"),
        ("c.csv", b'_id,text\n1,"a\nb"\n\n2\n', r"c\.csv:5: expected 2 fields .*got 1"),
        ("c.csv", b'text\n"red" wine\n', r"c\.csv:2: broken row .*double the quotes"),
        ("c.csv", b'text\na\n"b\nc\n', r"c\.csv:4: broken row .*unexpected end"),
        ("c.csv", b"text\na\rb\n", r"c\.csv:2: broken row .*new-line"),
        ("c.csv", b"\n_id,body\n1,a\n", r"c\.csv:2: no 'text' among the columns '_id', 'body'"),
        ("c.csv", b"text,text\na,b\n", r"c\.csv:1: two columns are named 'text'"),
        ("c.csv", b"text,year,year\na,1,2\n", r"c\.csv:1: two columns are named 'year'"),
        ("c.csv", b"_id,text\n,a\n", r"c\.csv:2: '_id' is empty"),
        ("c.csv", b"text\na\n\xff\n", r"c\.csv:3: byte 0xff is not UTF-8"),
        ("c.tsv", b"_id\ttext\n1\ta\tb\n", r"c\.tsv:2: expected 2 fields .*got 3"),
        ("c.tsv", b"_id,text\n1,a\n", r"c\.tsv:1: no 'text' among the columns '_id,text'"),
        ("c.jsonl", b'{"id": 7, "text": ""}\n{"id": "7", "text": ""}', r"c\.jsonl:2: the id '7'"),
        ("c.jsonl", b'{"text": "a"}\n{"_id": "0", "text": "b"}', r"c\.jsonl:2: the id '0'"),
        ("c.csv", b'_id,text\na,"1\n2"\na,3\n', r"c\.csv:4: the id 'a' came before"),
        ("c.jsonl", b"\n\n", r"c\.jsonl: holds no document"),
        ("c.jsonl.gz", b"", r"c\.jsonl\.gz: holds no document"),
        ("c.csv", b"_id,text\n", r"c\.csv: holds no document"),
        ("c.tsv", b"", r"c\.tsv: holds no document"),
        ("c.jsonl", "{}".encode("utf-16"), r"c\.jsonl:1: byte 0xff is not UTF-8 .*; save"),
    ],
)
def test_a_fault_is_named_with_its_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = write_bytes(tmp_path / name, data)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_an_unclosed_quote_stops_at_the_field_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = csv.field_size_limit(1000)
    monkeypatch.setattr("fastlane_st.data.tables._LONGEST_CSV_FIELD", 1000)
    path = write_bytes(tmp_path / "c.csv", b'text\n"open\n' + b"more text\n" * 200)
    try:
        with pytest.raises(ValueError, match=r"c\.csv:\d+: broken row .*field limit \(1000\)"):
            read(path)
    finally:
        csv.field_size_limit(before)


def test_a_field_limit_that_someone_raised_is_not_lowered(tmp_path: Path) -> None:
    before = csv.field_size_limit(2**30)
    try:
        read(write_bytes(tmp_path / "c.csv", b"text\na\n"))
        assert csv.field_size_limit() == 2**30
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.csv.gz"])
def test_a_truncated_gzip_is_named_with_the_line_that_breaks_off(tmp_path: Path, name: str) -> None:
    lines = [b"text"] if ".csv" in name else []
    lines += [json.dumps({"text": "x" * 10}).encode() if ".json" in name else b"x"] * 20
    path = write_bytes(tmp_path / name, b"\n".join(lines) + b"\n")
    path.write_bytes(path.read_bytes()[:-8])  # the checksum and the length come last
    with pytest.raises(ValueError, match=rf"{len(lines) + 1}: truncated or broken gzip .*again"):
        read(path)


def test_a_file_that_only_claims_to_be_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(b'{"text": "t"}')
    with pytest.raises(ValueError, match=r"c\.jsonl\.gz:1: truncated or broken gzip"):
        read(path)


def test_a_gzip_with_a_broken_block_is_refused(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "c.jsonl.gz", b'{"text": "t"}')
    data = bytearray(path.read_bytes())
    data[10] |= 0b110  # the block type 3 does not exist
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"c\.jsonl\.gz:1: truncated or broken gzip"):
        read(path)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "c.parquet", b"text\na\n")
    with pytest.raises(ValueError, match=r"c\.parquet: broken Parquet from row 0 on"):
        read(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"body": ["a"]}, r"c\.parquet: no 'text' among the columns 'body'"),
        ({"text": ["a", None]}, r"c\.parquet:row 1: 'text' must be a string, got NoneType"),
        ({"text": [b"a"]}, r"c\.parquet:row 0: 'text' must be a string, got bytes"),
        ({"id": ["x", "y", "x"], "text": ["", "", ""]}, r"c\.parquet:row 2: the id 'x'"),
        ({"text": pa.array([], pa.string())}, r"c\.parquet: holds no document"),
    ],
)
def test_a_fault_in_parquet_is_named_with_its_row(
    tmp_path: Path, table: dict[str, object], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "c.parquet", DOCUMENTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "fastlane-st\[parquet\]"'):
        read(tmp_path / "c.parquet")


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "image.png", b"")
    with pytest.raises(ValueError, match=r"holds no document; expected .*\*\.txt, \*\.md, \*\.rst"):
        read(tmp_path)


def test_one_text_file_is_refused_with_its_folder(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "notes.md", b"text")
    with pytest.raises(
        ValueError, match=r"unknown corpus format; .*give the folder that holds notes"
    ):
        read_corpus(path)


@pytest.mark.parametrize("name", ["corpus.json", "corpus.txt", "corpus", "corpus.parquet.gz"])
def test_an_unknown_format_is_refused_before_reading(tmp_path: Path, name: str) -> None:
    path = write_bytes(tmp_path / name, b"")
    with pytest.raises(ValueError, match=r"unknown corpus format; expected BEIR JSONL \(\.jsonl"):
        read_corpus(path)


def test_a_missing_corpus_is_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such file or folder"):
        read_corpus(tmp_path / "absent.jsonl")
