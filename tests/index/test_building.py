"""An index built in a folder: the same as one built at once, also after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index import feed
from fastlane_st.index.building import build_folder
from fastlane_st.index.storage import segment_files
from fastlane_st.index.unfinished import UNFINISHED, Unfinished
from fastlane_st.index.vectors.settings import VectorSettings
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
    monkeypatch.setattr(feed, "_ENCODED_AT_ONCE", 3)


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
        assert left.metadata[UNFINISHED]["committed"] == len(left)
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
        ValueError, match=r"was started with .*storage='float32', not with .*storage='int8'"
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


# --- commits by time


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("stop", [3, 7, 29, 31, 59])
def test_time_commits_early_and_changes_nothing_of_the_index(
    kind: Any, storage: Any, stop: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kind": kind, "storage": storage}

    def build_30(folder: Path, documents: Any, **more: Any) -> FastLaneIndex:
        encoder = WordEncoder()
        return build_folder(
            folder, encoder, documents, len(CORPUS), commit_every=30, **options, **more
        )

    with pytest.raises(KeyboardInterrupt):
        build_30(tmp_path / "a", _until(stop), commit_seconds=0)
    left = FastLaneIndex.load(tmp_path / "a", WordEncoder())
    assert left.ids == [document.id for document in CORPUS[: stop // 3 * 3]]
    state = Unfinished.of(left)
    assert state is not None
    assert state.is_fitted == (stop >= 30)
    if stop < 30:  # nothing is fitted to a few documents
        assert (left.vectors.kind, left.vectors.storage) == ("flat", "float32")
    resumed = build_30(tmp_path / "a", CORPUS, resume=True, commit_seconds=0)
    at_once = build_30(tmp_path / "b", CORPUS, commit_seconds=None)
    loaded = FastLaneIndex.load(tmp_path / "a", WordEncoder())
    for index in (resumed, at_once, loaded):
        assert (index.vectors.kind, index.vectors.storage) == (kind, storage)
        assert answers(index) == answers(at_once)
        assert index.ids == [document.id for document in CORPUS]
        assert index.metadata == {}
    templates = [one._contents.template for one in (resumed, at_once)]
    assert [one.is_clustered for one in templates] == [kind == "ivf"] * 2


def test_a_commit_is_due_after_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))  # ten seconds between two looks
    monkeypatch.setattr(feed, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        build_folder(
            tmp_path, WordEncoder(), _until(14), len(CORPUS), commit_every=50, commit_seconds=30
        )
    assert len(FastLaneIndex.load(tmp_path)) == 9  # three pieces
    with pytest.raises(ValueError, match="commit_seconds must be a number from 0 or None, got -1"):
        build(tmp_path / "x", commit_seconds=-1)


# --- a resume with another corpus


def replaced(number: int, **changes: Any) -> list[CorpusDocument]:
    return [replace(one, **changes) if place == number else one for place, one in enumerate(CORPUS)]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (replaced(7, text="sky"), "1 of its documents changed, such as 'd7'"),
        (replaced(7, title="sky"), "1 of its documents changed, such as 'd7'"),
        (replaced(19, metadata={"n": 0}), "1 of its documents changed, such as 'd19'"),
        (replaced(3, id="new"), "1 of its documents are gone, such as 'd3'"),
        ([*CORPUS[1:3], CORPUS[0], *CORPUS[3:]], "its documents come in another order"),
        ([CORPUS[40], *CORPUS[:40], *CORPUS[41:]], "its documents come in another order"),
        (CORPUS[:-1], "it had 60 documents, now it has 59"),
        ([*CORPUS, CorpusDocument("more", "sky")], "it had 60 documents, now it has 61"),
        (
            [replace(one, id=f"x{one.id}") for one in CORPUS],
            "30 of its documents are gone, such as 'd0', 'd1', 'd2'",
        ),
    ],
)
def test_a_resume_with_another_corpus_is_refused_and_says_what_changed(
    documents: list[CorpusDocument], message: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(32))
    encoder = WordEncoder()
    with pytest.raises(
        ValueError, match=f"was started with another corpus: {message}; resume with"
    ):
        build_folder(tmp_path, encoder, documents, len(documents), resume=True)
    assert encoder.calls == []
    assert len(build(tmp_path, resume=True)) == len(CORPUS)


def test_an_unfinished_index_that_was_changed_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(32))
    index = FastLaneIndex.load(tmp_path)
    index.delete(["d3"])
    index.save(tmp_path)
    with pytest.raises(
        ValueError, match="holds 29 documents in place of 30; build the index again"
    ):
        build(tmp_path, resume=True)
    index.metadata = {UNFINISHED: True}
    index.save(tmp_path)
    with pytest.raises(ValueError, match="another version of fastlane-st started this index"):
        build(tmp_path, resume=True)


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    for place in (1, 20, 59):  # in the piece, in an earlier commit, in an earlier run
        documents = [*CORPUS[:place], CORPUS[0], *CORPUS[place + 1 :]]
        with pytest.raises(ValueError, match="ids must all be different, got 'd0' twice"):
            build(tmp_path / str(place), documents)


def test_no_documents_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no documents"):
        build(tmp_path, [])
    with pytest.raises(ValueError, match="num_documents must be a positive integer, got 0"):
        build_folder(tmp_path, WordEncoder(), [], 0)


# --- what is said


def test_one_bar_counts_to_the_corpus_also_after_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(35), show_progress_bar=True)
    capsys.readouterr()
    build(tmp_path, resume=True, show_progress_bar=True)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    bars = [line for line in lines if "|" in line]
    assert all(line.startswith("Indexing: ") and "/60 [" in line for line in bars)
    assert "| 30/60 [" in bars[0]
    assert "| 60/60 [" in bars[-1]


def test_the_size_is_said_after_the_first_piece(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastlane_st.index.building")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, _until(4))
    said = (
        "flat index in float32 for about 180 vectors of 3 dimensions: 0 MB, expected recall@10 1.00"
    )
    assert caplog.messages == [said]
    caplog.clear()
    build(tmp_path)
    assert caplog.messages == [said]


def test_an_index_is_described_alike_in_memory_and_in_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastlane_st.index")
    build(tmp_path)
    at_once()
    said = VectorSettings().describe(180, 3)
    assert said.startswith("flat index in float32 for about 180 vectors of 3 dimensions")
    assert caplog.messages == [said, said]


@pytest.mark.slow
def test_the_shell_resumes(checkpoint: Path, tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus.csv", tmp_path / "index"
    corpus.write_text("_id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(DOCUMENTS)))
    encoder = FastLaneEncoder(checkpoint)
    documents = [CorpusDocument(str(n), text) for n, text in enumerate(DOCUMENTS[:4])]
    started = FastLaneIndex.build(
        encoder, [d.content for d in documents], [d.id for d in documents]
    )
    state = Unfinished(len(DOCUMENTS), "default", "auto", "float32", committed=4)
    started.metadata = {UNFINISHED: state.to_dict(), "checkpoint": str(checkpoint)}
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
