"""Exports: to every store and to Parquet, from indexes and corpora; what is there is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli
from fastlane_st.data.rows import CorpusDocument
from fastlane_st.stores import export, export_vectors, open_store
from fastlane_st.stores.export import Exported
from tests.conftest import DOCUMENTS
from tests.support.encoders import WordEncoder
from tests.support.vectors import DIM, units

from .conftest import Corpus

QUERIES = list(units(6, 999)[:, None])


@pytest.fixture
def target(engine: str, tmp_path: Path) -> str:
    return f"{engine}:{tmp_path / ('target.db' if engine == 'milvus' else 'target')}"


def test_an_index_is_exported_and_found_again(
    target: str, corpus: Corpus, exact: FastLaneIndex
) -> None:
    assert export_vectors(exact, target) == Exported(60, 0, 0)
    assert export_vectors(exact, target) == Exported(0, 60, 0)
    store = open_store(target)
    for where in (None, {"year": {"$gt": 2001}}):
        found = store.search(QUERIES, where=where)
        expected = exact.search(QUERIES, where=where)
        assert [[hit.id for hit in hits] for hits in found] == [
            [hit.id for hit in hits] for hits in expected
        ]
    assert store.get([corpus.ids[0]])[0].text == "text 0"
    store.close()


def test_only_what_has_changed_is_written(target: str, corpus: Corpus) -> None:
    index = corpus.index()
    export_vectors(index, target)
    index.upsert([units(2, 88)], [corpus.ids[3]], metadata=[{"year": 1}])
    index.add([units(2, 89), np.zeros((0, DIM))], ["new", "bare"])
    index.delete([corpus.ids[4]])
    assert export_vectors(index, target) == Exported(2, 58, 1)
    store = open_store(target)
    assert store.count() == 61
    assert store.search([units(2, 88)[:1]], 1)[0][0].metadata == {"year": 1}
    store.close()


def test_an_interrupted_export_goes_on(
    target: str, exact: FastLaneIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.StoreTarget, "at_once", 25)
    writes = iter([None, KeyboardInterrupt])
    run_whole = export.run

    class Interrupted:
        def __init__(self, target: Any) -> None:
            self.target = target

        def __getattr__(self, name: str) -> Any:
            return getattr(self.target, name)

        def write(self, records: Any) -> None:
            if (error := next(writes)) is not None:
                raise error
            self.target.write(records)

    monkeypatch.setattr(export, "run", lambda a, b, c: run_whole(a, Interrupted(b), c))
    with pytest.raises(KeyboardInterrupt):
        export_vectors(exact, target)
    monkeypatch.setattr(export, "run", run_whole)
    assert export_vectors(exact, target) == Exported(35, 25, 0)


def test_another_dimension_or_checkpoint_is_refused(target: str, exact: FastLaneIndex) -> None:
    export_vectors(exact, target)
    small = FastLaneIndex.from_embeddings([[[1.0, 0.0]]])
    with pytest.raises(
        ValueError, match=r"target.* holds 16-dimensional vectors, the export has 2"
    ):
        export_vectors(small, target)
    other = FastLaneIndex.from_embeddings([units(1, 1)])
    other.checkpoint = ["a"]
    export_vectors(other, target, "second")
    other.checkpoint = ["b"]
    with pytest.raises(ValueError, match=r"second.* was filled by another checkpoint"):
        export_vectors(other, target, "second")
    store = open_store(target)
    assert store.count() == 60
    store.close()


CORPUS = [
    CorpusDocument(f"d{n}", text, metadata={"n": n})
    for n, text in enumerate(["red car", "sky bus"])
]


def test_a_corpus_is_encoded_once(target: str) -> None:
    encoder = WordEncoder()
    options: dict[str, Any] = {"encoder": encoder, "storage": "float32"}
    assert export_vectors(CORPUS, target, **options) == Exported(2, 0, 0)
    calls = len(encoder.calls)
    assert export_vectors(CORPUS, target, **options) == Exported(0, 2, 0)
    assert len(encoder.calls) == calls
    changed = [CORPUS[0], CorpusDocument("d1", "blue bus", metadata={"n": 1})]
    assert export_vectors(changed, target, **options) == Exported(1, 1, 0)
    assert encoder.calls[-1]["texts"] == ["blue bus"]
    index = FastLaneIndex.build(encoder, [one.text for one in CORPUS], ["d0", "d1"])
    assert export_vectors(index, target) == Exported(2, 0, 0)  # the vectors are now the index's
    store = open_store(target, encoder=encoder)
    assert [hit.text for hit in store.search("red", 1)] == ["red car"]
    store.close()


def read_parquet(folder: Path) -> list[tuple[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    from fastlane_st.stores.arrow import read_rows

    return [
        one
        for path in sorted(folder.glob("*.parquet"))
        for one in read_rows(parquet.read_table(path))
    ]


def test_parquet_files_hold_everything_and_are_written_once(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("fastlane_st.stores.parquet.ParquetFolder.at_once", 25)
    folder = tmp_path / "files"
    index = corpus.index()
    assert export_vectors(index, f"parquet:{folder}") == Exported(60, 0, 0)
    assert [path.name for path in sorted(folder.iterdir())] == [
        f"part-0000{n}.parquet" for n in range(3)
    ]
    found = read_parquet(folder)
    assert [one.id for _, one in found] == corpus.ids
    for (_, one), vectors, positions in zip(found, corpus.vectors, corpus.positions, strict=True):
        np.testing.assert_array_equal(one.views.vectors, vectors)
        assert one.views.positions.tolist() == positions
    assert found[3][1].metadata == corpus.metadata[3]
    (folder / "part-00002.parquet").write_bytes(b"PAR1 half-written")
    assert export_vectors(index, f"parquet:{folder}") == Exported(10, 50, 0)
    assert len(read_parquet(folder)) == 60
    index.delete(corpus.ids[20:])
    assert export_vectors(index, f"parquet:{folder}") == Exported(20, 0, 0)
    assert [path.name for path in folder.iterdir()] == ["part-00000.parquet"]


def test_parquet_refuses_the_files_of_something_else(tmp_path: Path, exact: FastLaneIndex) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"mine": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(FileExistsError, match=r"part-00000\.parquet is of something else"):
        export_vectors(exact, f"parquet:{tmp_path}")
    assert parquet.read_table(tmp_path / "part-00000.parquet")["mine"].to_pylist() == [1]


@pytest.mark.parametrize("engine", ["lancedb", "parquet"])
def test_the_folder_of_an_index_is_no_target(
    engine: str, tmp_path: Path, exact: FastLaneIndex
) -> None:
    exact.save(tmp_path / "index")
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    with pytest.raises(ValueError, match="index is an index: name another folder"):
        export_vectors(exact, f"{engine}:{tmp_path / 'index'}")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_parquet_refuses_another_dimension_and_keeps_the_number_type(
    tmp_path: Path, exact: FastLaneIndex
) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "out"
    export_vectors(exact, f"parquet:{folder}", storage="float32")
    before = read_parquet(folder)
    other = FastLaneIndex.from_embeddings([np.eye(3, dtype=np.float32)], ids=["other"])
    with pytest.raises(ValueError, match=f"holds {DIM}-dimensional vectors, the export has 3"):
        export_vectors(other, f"parquet:{folder}")
    assert export_vectors(exact, f"parquet:{folder}").written == 0  # in float32 as before
    assert len(read_parquet(folder)) == len(before)


def test_parquet_refuses_a_folder_of_other_files(tmp_path: Path, exact: FastLaneIndex) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds other files, as notes\.txt"):
        export_vectors(exact, f"parquet:{tmp_path}")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("target", ["chroma:x", "lancedb:", "parquet", "/a/path"])
def test_another_target_is_named(target: str, exact: FastLaneIndex) -> None:
    with pytest.raises(ValueError, match=f"expected a target .*got '{target}'"):
        export_vectors(exact, target)


def test_options_that_can_not_apply_are_refused(exact: FastLaneIndex) -> None:
    with pytest.raises(ValueError, match="apply to documents that are encoded"):
        export_vectors(exact, "lancedb:x", num_routes=4)
    with pytest.raises(ValueError, match="documents need an encoder"):
        export_vectors(CORPUS, "lancedb:x")


def test_the_command_exports_an_index_or_a_corpus(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    rows = [
        {"_id": f"d{n}", "text": text, "metadata": {"n": n}} for n, text in enumerate(DOCUMENTS)
    ]
    corpus, index, target = tmp_path / "c.jsonl", tmp_path / "index", f"lancedb:{tmp_path / 'db'}"
    corpus.write_text("\n".join(map(json.dumps, rows)))
    model = ["--model", str(checkpoint)]
    assert cli.main(["index", str(corpus), "--out", str(index), *model]) == 0
    capsys.readouterr()
    assert cli.main(["export-vectors", str(index), "--to", target]) == 0
    assert capsys.readouterr().out == f"6 documents written to {target}, 0 there already\n"
    assert cli.main(["export-vectors", str(index), "--to", target, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {"target": target, "written": 0, "there": 6, "without_vectors": 0}
    encoded = ["export-vectors", str(corpus), "--to", target, "--name", "second", *model]
    assert cli.main(encoded) == 0
    assert cli.main(encoded) == 0
    assert "0 documents written" in capsys.readouterr().out
    encoder = FastLaneEncoder(checkpoint)
    loaded = FastLaneIndex.load(index, encoder)
    for name in ("documents", "second"):
        store = open_store(target, name, encoder=encoder)
        for query in ("sort a list", "read the file"):
            for options in ({}, {"rerank": 5}, {"where": {"n": {"$gte": 2}}}):
                found = store.search(query, 3, **options)
                expected = loaded.search(query, 3, num_routes=1, **options)
                assert [hit.id for hit in found] == [hit.id for hit in expected]

    for wrong, message in (
        (["export-vectors", str(index), "--to", target, *model], "--model applies to a corpus"),
        (["export-vectors", str(index), "--to", "ftp:x"], "expected a target"),
        (["export-vectors", "-", "--to", target], "give its name, not -"),
        (["export-vectors", str(tmp_path / "none"), "--to", target], "no such file"),
        (
            ["export-vectors", str(index), "--to", target, "--storage", "float32"],
            "must be 'float16'",
        ),
    ):
        assert cli.main(wrong) == 1
        assert message in capsys.readouterr().err


def test_the_command_shows_no_tracebacks_of_milvus_lite(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("milvus_lite")
    corpus, target = tmp_path / "c.jsonl", f"milvus:{tmp_path / 'target.db'}"
    corpus.write_text(json.dumps({"_id": "d1", "text": DOCUMENTS[0]}))
    command = ["export-vectors", str(corpus), "--to", target, "--model", str(checkpoint)]
    assert cli.main(command) == 0
    assert "Traceback" not in caplog.text
