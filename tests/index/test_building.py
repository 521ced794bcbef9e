"""An index built in a folder: the same as one built at once, also after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index import building
from fastlane_st.index.building import UNFINISHED, build_folder
from fastlane_st.index.storage import segment_files
from tests.conftest import DOCUMENTS
from tests.support.encoders import WordEncoder

WORDS = ("red", "blue", "car", "bus", "sky")
CORPUS = [
    CorpusDocument(
        f"d{n}", f"{WORDS[n % 5]} {WORDS[n // 5 % 5]} {WORDS[n // 25 % 5]}", metadata={"n": n}
    )
    for n in range(60)
]


def build(folder: Path, documents: Any = CORPUS, **options: Any) -> FastLaneIndex:
    return build_folder(folder, WordEncoder(), documents, len(CORPUS), commit_every=10, **options)


def at_once() -> FastLaneIndex:
    return FastLaneIndex.build(
        WordEncoder(),
        [document.content for document in CORPUS],
        [document.id for document in CORPUS],
        metadata=[document.metadata for document in CORPUS],
    )


def answers(index: FastLaneIndex) -> Any:
    return index.search(["red car", "blue sky", "bus"], top_k=60, num_routes=2)


def _until(stop: int) -> Iterator[CorpusDocument]:
    yield from CORPUS[:stop]
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_ENCODED_AT_ONCE", 3)


def test_a_commit_reads_no_earlier_commit_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_back(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("fastlane_st.index.index.read_index", read_back)
    hashed: list[str] = []
    verified = segment_files.sha256_of
    monkeypatch.setattr(
        segment_files, "sha256_of", lambda path: hashed.append(path.name) or verified(path)
    )
    index = build(tmp_path)
    assert len(index) == len(CORPUS)
    assert all(part.segment.is_mapped for part in index.parts)
    # The documents of a commit are hashed once, when they are written.
    documents = [name for name in hashed if name.startswith("documents-")]
    assert len(documents) == len(set(documents)) > 2


def test_what_was_saved_is_searched_and_changed_in_its_files(tmp_path: Path) -> None:
    index = FastLaneIndex.build(WordEncoder(), ["red car", "blue bus sky", "sky"], ids=list("rbs"))
    queries = ["sky", "red", "bus"]
    expected = index.search(queries)
    index.map_saved()  # there is no save yet
    assert not index.parts[0].segment.is_mapped
    index.save(tmp_path)
    index.map_saved()
    assert index.parts[0].segment.is_mapped
    assert index.search(queries) == expected
    index.delete(["s"])
    index.add(["car sky"], ids=["c"])
    index.save(tmp_path)
    index.map_saved()
    index.save(tmp_path)
    assert [hit.id for hit in index.search("sky")] == [
        hit.id for hit in FastLaneIndex.load(tmp_path, WordEncoder()).search("sky")
    ]


def test_an_index_built_in_a_folder_is_the_one_built_at_once(tmp_path: Path) -> None:
    index = build(tmp_path, metadata={"name": "words"})
    loaded = FastLaneIndex.load(tmp_path, WordEncoder())
    for one in (index, loaded):
        assert answers(one) == answers(at_once())
        assert one.ids == at_once().ids
        assert one.metadata == {"name": "words"}


@pytest.mark.parametrize("stop", [5, 10, 11, 35, 59])
def test_a_build_that_was_interrupted_goes_on_where_it_committed(tmp_path: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(stop))
    if stop < 10:
        assert list(tmp_path.iterdir()) == []
    else:
        left = FastLaneIndex.load(tmp_path)
        assert left.metadata[UNFINISHED] is True
        assert left.ids == [document.id for document in CORPUS[: stop // 10 * 10]]
        with pytest.raises(FileExistsError, match="holds an index: name another folder"):
            build(tmp_path)
    index = build(tmp_path, resume=True)
    assert answers(index) == answers(FastLaneIndex.load(tmp_path, WordEncoder()))
    assert answers(index) == answers(at_once())
    assert UNFINISHED not in index.metadata


def test_only_what_is_left_is_encoded(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(40))
    kept = len(FastLaneIndex.load(tmp_path))
    encoder = WordEncoder()
    build_folder(tmp_path, encoder, CORPUS, len(CORPUS), commit_every=10, resume=True)
    encoded = [text for call in encoder.calls for text in call["texts"]]
    assert encoded == [document.content for document in CORPUS[kept:]]


def test_a_finished_index_and_other_settings_are_not_resumed(tmp_path: Path) -> None:
    build(tmp_path / "done")
    with pytest.raises(ValueError, match="holds a finished index"):
        build(tmp_path / "done", resume=True)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "open", _until(30))
    with pytest.raises(
        ValueError, match=r"was started with .*'storage': 'float32'.*not with .*int8"
    ):
        build(tmp_path / "open", resume=True, storage="int8")
    with pytest.raises(ValueError, match="was started with"):
        build(tmp_path / "open", resume=True, num_routes=1)
    with pytest.raises(ValueError, match="was started with"):
        build(tmp_path / "open", resume=True, kind="ivf")


def test_what_is_fitted_is_fitted_for_all_documents(tmp_path: Path) -> None:
    many = FastLaneIndex.build(
        WordEncoder(), ["red car"] * 10, kind="auto", num_documents=1_000_000
    )
    assert many.vectors.kind == "ivf"
    assert FastLaneIndex.build(WordEncoder(), ["red car"] * 10).vectors.kind == "flat"
    with pytest.raises(ValueError, match="num_documents must be at least the 10 given, got 9"):
        FastLaneIndex.build(WordEncoder(), ["red car"] * 10, num_documents=9)


def test_large_segments_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlane_st.index import contents

    monkeypatch.setattr(contents, "LARGEST_MERGED", 50 * 3 * 4)  # bytes
    index = build(tmp_path)
    sizes = [part.num_vectors for part in index._contents.parts]
    assert max(sizes) <= 50
    assert len(sizes) > 3
    assert answers(index) == answers(at_once())


@pytest.mark.slow
def test_the_shell_resumes(checkpoint: Path, tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus.csv", tmp_path / "index"
    corpus.write_text("_id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(DOCUMENTS)))
    encoder = FastLaneEncoder(checkpoint)
    documents = [CorpusDocument(str(n), text) for n, text in enumerate(DOCUMENTS[:4])]
    started = FastLaneIndex.build(
        encoder, [d.content for d in documents], [d.id for d in documents]
    )
    started.metadata = {UNFINISHED: True, "checkpoint": str(checkpoint)}
    started.save(folder)
    arguments = ["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]
    assert cli.main(arguments) == 1
    assert cli.main([*arguments, "--resume", "--processes", "0"]) == 1
    assert cli.main([*arguments, "--resume", "--processes", "2"]) == 0
    index = FastLaneIndex.load(folder, encoder)
    assert index.ids == [str(n) for n in range(len(DOCUMENTS))]
    assert index.metadata == {"checkpoint": str(checkpoint)}
    expected = FastLaneIndex.build(encoder, DOCUMENTS)
    for query in ("read a file", "sort"):
        found = [(hit.id, hit.score) for hit in index.search(query)]
        assert found == [(str(hit.id), pytest.approx(hit.score)) for hit in expected.search(query)]
