"""An index folder: what is saved comes back, a crash costs nothing, and damage is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st.index.index import FastLaneIndex
from fastlane_st.index.storage import folder
from fastlane_st.index.storage.manifest import with_checksum
from fastlane_st.lock import locked
from fastlane_st.modeling.search_fastlane import Hit, import_faiss
from tests.support.encoders import WordEncoder

QUERY = [[1.0, 0.5], [0.0, -1.0]]
FIRST_GENERATION = [
    "documents-000001.sqlite",
    "index.json",
    "index.lock",
    "offsets-000001.npy",
    "places-000001.npy",
    "positions-000001.npy",
    "vectors-000001.faiss",
]
READ = [name for name in FIRST_GENERATION if name != "index.lock"]


def old_index() -> FastLaneIndex:
    index = FastLaneIndex.from_embeddings(
        [[[1.0, 0.0], [0.5, 0.25]], np.empty((0, 2)), [[-0.5, 1.0]], [[0.0, -0.75]]],
        ids=[1, "1", "é\n\u2028", -(2**70)],
        positions=[[3, 7], [], [1], [4]],
        texts=["one", "", "line\nbreak \ud800 😀", "\\"],
    )
    index.metadata["checkpoint"] = {"name": "tiny", "revision": None, "routes": [1, 2.5]}
    return index


def new_index() -> FastLaneIndex:
    return FastLaneIndex.from_embeddings([[[0.25, 0.25]]], ids=["new"])


def search(index: FastLaneIndex) -> list[Hit]:
    return index.search([QUERY])[0]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    old_index().save(tmp_path / "index")
    return tmp_path / "index"


class TwoDimensions:
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def get_embedding_dimension(self) -> int:
        return self.dim


# Save and load


def test_what_is_saved_comes_back(saved: Path) -> None:
    index, loaded = old_index(), FastLaneIndex.load(saved)
    assert search(loaded) == search(index)
    assert [hit.matches[0].document_position for hit in search(loaded)] == [3, 4, 1]
    assert loaded.ids == [1, "1", "é\n\u2028", -(2**70)]
    assert [type(id) for id in loaded.ids] == [int, str, str, int]
    assert [loaded.text(id) for id in loaded.ids] == ["one", "", "line\nbreak \ud800 😀", "\\"]
    assert loaded.metadata == index.metadata
    assert (len(loaded), loaded.num_vectors, loaded.dim) == (4, 4, 2)


def test_an_index_without_texts_or_vectors_comes_back(tmp_path: Path) -> None:
    FastLaneIndex.from_embeddings([np.empty((0, 3))]).save(tmp_path)
    loaded = FastLaneIndex.load(str(tmp_path))
    assert (loaded.ids, loaded.text(0), loaded.dim, loaded.num_vectors) == ([0], None, 3, 0)
    assert loaded.search([np.ones((1, 3))]) == [[]]


def test_an_empty_text_is_not_a_missing_one(tmp_path: Path) -> None:
    FastLaneIndex.from_embeddings([[[1.0]]], texts=[""]).save(tmp_path)
    assert FastLaneIndex.load(tmp_path).text(0) == ""


def test_a_save_replaces_the_old_generation_and_leaves_other_files(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    new_index().save(saved)
    assert names(saved) == sorted(
        [name.replace("000001", "000002") for name in FIRST_GENERATION] + ["notes.txt"]
    )
    assert FastLaneIndex.load(saved).ids == ["new"]


def test_a_loaded_index_can_be_saved_over_itself(saved: Path) -> None:
    loaded = FastLaneIndex.load(saved)
    loaded.metadata = {"note": "again"}
    loaded.save(saved)
    again = FastLaneIndex.load(saved)
    assert search(again) == search(old_index())
    assert again.metadata == {"note": "again"}


def test_the_manifest_says_what_the_folder_holds(saved: Path) -> None:
    manifest = json.loads((saved / "index.json").read_text())
    assert names(saved) == FIRST_GENERATION
    assert (manifest["num_documents"], manifest["num_vectors"], manifest["dim"]) == (4, 4, 2)
    for name, file in manifest["files"].items():
        content = (saved / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_metadata_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    index = new_index()
    for value in (object(), float("nan")):
        index.metadata = {"key": value}
        with pytest.raises(ValueError, match="metadata must be JSON"):
            index.save(tmp_path / "index")
    assert names(tmp_path) == []


def test_metadata_keys_become_text(tmp_path: Path) -> None:
    index = new_index()
    index.metadata = {10: "a", 9: ("b",)}  # type: ignore[dict-item]
    index.save(tmp_path)
    assert FastLaneIndex.load(tmp_path).metadata == {"10": "a", "9": ["b"]}


def test_the_encoder_must_have_the_indexs_dimension(saved: Path) -> None:
    encoder: Any = TwoDimensions(2)
    assert FastLaneIndex.load(saved, encoder).encoder is encoder
    message = "the encoder gives 128-dimensional vectors, the index holds 2"
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.load(saved, TwoDimensions(128))  # type: ignore[arg-type]


# Commits


def changed(index: FastLaneIndex) -> FastLaneIndex:
    """The index of `saved`, and more documents than a segment takes in without merging."""
    index.add([[[0.5, 0.5]]], ids=["more"], texts=["more"], metadata=[{"year": 2024}])
    index.delete([-(2**70)])
    return index


def test_a_commit_writes_only_what_is_new(saved: Path) -> None:
    index = FastLaneIndex.load(saved)
    before = {name: (saved / name).stat().st_mtime_ns for name in names(saved)}
    changed(index).save(saved)
    kept = set(FIRST_GENERATION) - {"index.json"}
    assert {name: (saved / name).stat().st_mtime_ns for name in kept} == {
        name: before[name] for name in kept
    }
    new = [name.replace("000001", "000002") for name in READ if name != "index.json"]
    assert set(names(saved)) - set(FIRST_GENERATION) == {*new, "live-000002-000001.npy"}
    loaded = FastLaneIndex.load(saved)
    assert search(loaded) == search(index)
    assert loaded.ids == [1, "1", "é\n\u2028", "more"]
    assert loaded.search([QUERY], where={"year": 2024})[0][0].metadata == {"year": 2024}


def test_what_a_commit_leaves_is_not_written_again(saved: Path) -> None:
    index = changed(FastLaneIndex.load(saved))
    index.save(saved)
    before = names(saved)
    stamps = {name: (saved / name).stat().st_mtime_ns for name in before}
    index.save(saved)
    FastLaneIndex.load(saved).save(saved)
    assert names(saved) == before
    again = {name: (saved / name).stat().st_mtime_ns for name in before}
    assert [name for name in before if again[name] != stamps[name]] == ["index.json"]
    assert search(FastLaneIndex.load(saved)) == search(index)


def test_a_compacted_index_leaves_one_segment(saved: Path) -> None:
    index = changed(FastLaneIndex.load(saved))
    index.save(saved)
    index.compact()
    index.save(saved)
    assert names(saved) == [name.replace("000001", "000003") for name in FIRST_GENERATION]
    assert search(FastLaneIndex.load(saved)) == search(index)


def test_ids_that_were_given_out_are_not_given_out_again_after_loading(tmp_path: Path) -> None:
    index = FastLaneIndex.from_embeddings([[[1.0]], [[2.0]]])
    index.delete([1])
    index.save(tmp_path)
    assert FastLaneIndex.load(tmp_path).add([[[3.0]]]) == [2]


def test_an_index_emptied_and_saved_can_be_filled_again(saved: Path) -> None:
    index = FastLaneIndex.load(saved)
    index.delete(index.ids)
    index.save(saved)
    loaded = FastLaneIndex.load(saved)
    assert (loaded.ids, loaded.dim) == ([], 2)
    assert names(saved) == ["index.json", "index.lock"]
    loaded.add([[[1.0, 0.0]]], ids=["new"])
    loaded.save(saved)
    assert FastLaneIndex.load(saved).ids == ["new"]


def test_documents_are_routed_as_before_after_loading(tmp_path: Path) -> None:
    encoder = WordEncoder()
    FastLaneIndex.build(encoder, ["red car"], num_routes=0.5).save(tmp_path)
    loaded = FastLaneIndex.load(tmp_path, encoder)
    loaded.add(["blue sky"])
    assert encoder.calls[-1]["num_routes"] == loaded.document_routes == 0.5


def test_a_folder_that_someone_else_changed_is_not_overwritten(saved: Path) -> None:
    mine, theirs = FastLaneIndex.load(saved), FastLaneIndex.load(saved)
    changed(theirs).save(saved)
    mine.delete(["1"])
    with pytest.raises(ValueError, match=r"changed by someone else .* load it again"):
        mine.save(saved)
    assert "more" in FastLaneIndex.load(saved)


def test_a_folder_that_was_built_anew_is_not_overwritten(saved: Path) -> None:
    mine = FastLaneIndex.load(saved)
    shutil.rmtree(saved)
    FastLaneIndex.from_embeddings([np.eye(4, dtype=np.float32)], ids=["new"]).save(saved)
    mine.delete(["1"])
    with pytest.raises(ValueError, match="changed by someone else"):
        mine.save(saved)
    assert FastLaneIndex.load(saved).ids == ["new"]


def test_a_copy_is_saved_to_another_folder_whole(saved: Path, tmp_path: Path) -> None:
    index = changed(FastLaneIndex.load(saved))
    index.save(tmp_path / "copy")
    shutil.rmtree(saved)
    assert search(FastLaneIndex.load(tmp_path / "copy")) == search(index)


def test_only_one_writes_at_a_time(saved: Path) -> None:
    index = FastLaneIndex.load(saved)
    with (
        locked(saved, saved / folder.LOCK),
        pytest.raises(BlockingIOError, match="is being written by someone else"),
    ):
        index.save(saved)
    index.save(saved)


@pytest.mark.slow
def test_a_writer_that_was_killed_leaves_no_lock(saved: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fastlane_st.lock import locked; folder = Path(sys.argv[1])\n"
        "with locked(folder, folder / 'index.lock'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(saved)], check=False).returncode == -9
    FastLaneIndex.load(saved).save(saved)


@pytest.mark.skipif(sys.platform == "win32", reason="flock is Unix's")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_a_lock_file_excludes_other_writers(
    saved: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", missing)
    index = FastLaneIndex.load(saved)
    index.save(saved)
    with (
        locked(saved, saved / folder.LOCK),
        pytest.raises(BlockingIOError, match="is being written by someone else"),
    ):
        index.save(saved)
    index.save(saved)
    index.save(saved)
    assert len(FastLaneIndex.load(saved)) == len(index)


def test_without_fsync_of_folders_an_index_is_saved(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    index = FastLaneIndex.load(saved)
    index.save(saved)
    assert len(FastLaneIndex.load(saved)) == len(index)


@pytest.mark.slow
def test_reading_goes_on_while_someone_commits(saved: Path) -> None:
    index, stop = FastLaneIndex.load(saved), threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            [hit] = FastLaneIndex.load(saved).search([QUERY], ids=[1])[0]
            assert hit.text == f"{hit.metadata['n']}"
            seen.append(int(hit.text))

    index.update([[[1.0, 0.0]]], ids=[1], texts=["0"], metadata=[{"n": 0}])
    index.save(saved)
    with ThreadPoolExecutor() as pool:
        reader, n = pool.submit(read), 0
        while (n < 60 or len(set(seen)) < 3) and not reader.done():
            n += 1
            index.update([[[1.0, 0.0]]], ids=[1], texts=[f"{n}"], metadata=[{"n": n}])
            index.save(saved)
        stop.set()
        reader.result()
    assert seen == sorted(seen)


@pytest.mark.parametrize("version", [1, 2, 3, None])
def test_an_old_format_says_how_to_build_the_index_again(saved: Path, version: Any) -> None:
    manifest = json.loads((saved / "index.json").read_text())
    old = json.dumps(with_checksum(manifest | {"format_version": version}))
    (saved / "index.json").write_text(old)
    for use in (FastLaneIndex.load, new_index().save):
        with pytest.raises(
            ValueError,
            match=rf"has index format {version}, which a .* wrote; .*: build the index again",
        ):
            use(saved)
    assert (saved / "index.json").read_text() == old


# Folders that are none of ours


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(FileExistsError, match=r"holds other files \('model.safetensors'\)"):
        new_index().save(tmp_path)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("content", ['{"routes": []}', "[]", '{"format": "other"}'])
def test_anothers_index_json_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    message = r"is no FastLane index: its index\.json has no format 'fastlane-index'"
    with pytest.raises(ValueError, match=message):
        new_index().save(tmp_path)
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.load(tmp_path)
    assert (tmp_path / "index.json").read_text() == content


def test_a_folder_without_an_index_is_named(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            FileNotFoundError,
            match=rf"{directory.name} is no FastLane index: it has no index\.json",
        ):
            FastLaneIndex.load(directory)


def test_a_newer_format_is_neither_read_nor_overwritten(saved: Path) -> None:
    manifest = json.loads((saved / "index.json").read_text())
    (saved / "index.json").write_text(json.dumps(manifest | {"format_version": 5}))
    for use in (FastLaneIndex.load, new_index().save):
        with pytest.raises(ValueError, match="has index format 5, this code reads 4"):
            use(saved)
    assert names(saved) == FIRST_GENERATION


# Damage


@pytest.mark.parametrize("name", READ)
def test_every_flipped_byte_is_noticed_and_its_file_named(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    for place in range(0, len(content), 1 + len(content) // 2_000):  # of SQLite's pages some
        damaged = bytearray(content)
        damaged[place] ^= 1
        (saved / name).write_bytes(damaged)
        if name == "index.json" and content[place : place + 1].isspace():
            continue  # white space means nothing; what it becomes may or may not be JSON
        with pytest.raises(ValueError, match=name):
            FastLaneIndex.load(saved)


@pytest.mark.parametrize("name", READ)
def test_a_file_cut_short_is_named(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=name):
        FastLaneIndex.load(saved)


@pytest.mark.parametrize("name", [name for name in READ if name != "index.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        FastLaneIndex.load(saved)


def test_a_damaged_manifest_is_not_overwritten(saved: Path) -> None:
    (saved / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        new_index().save(saved)
    assert names(saved) == FIRST_GENERATION


def shift_offsets(directory: Path) -> None:
    np.save(directory / "offsets-000001.npy", np.array([0, 3, 2, 3, 4]))


def drop_position(directory: Path) -> None:
    np.save(directory / "positions-000001.npy", np.array([3, 7, 1], dtype=np.int32))


def drop_document(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "documents-000001.sqlite")) as connection:
        connection.execute("DELETE FROM documents WHERE number = 3")
        connection.commit()


def double_vectors(directory: Path) -> None:
    faiss = import_faiss()
    vectors = faiss.IndexFlatIP(2)
    vectors.add(np.ones((8, 2), dtype=np.float32))
    faiss.write_index(vectors, str(directory / "vectors-000001.faiss"))


def change_metric(directory: Path) -> None:
    faiss = import_faiss()
    vectors = faiss.IndexFlatL2(2)
    vectors.add(np.ones((4, 2), dtype=np.float32))
    faiss.write_index(vectors, str(directory / "vectors-000001.faiss"))


@pytest.mark.parametrize(
    "forge",
    [shift_offsets, drop_position, drop_document, double_vectors, change_metric],
)
def test_files_that_contradict_each_other_are_refused(
    saved: Path, forge: Callable[[Path], None]
) -> None:
    forge(saved)
    manifest = json.loads((saved / "index.json").read_text())
    for name in manifest["files"]:
        content = (saved / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    (saved / "index.json").write_text(json.dumps(with_checksum(manifest)))
    with pytest.raises(ValueError, match="contradict each other"):
        FastLaneIndex.load(saved)


def test_no_pickle_is_read(saved: Path) -> None:
    path = saved / "positions-000001.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    manifest = json.loads((saved / "index.json").read_text())
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][path.name] = {"bytes": len(content), "sha256": digest}
    (saved / "index.json").write_text(json.dumps(with_checksum(manifest)))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        FastLaneIndex.load(saved)


# Crashes


class Crash(BaseException):
    """Stands for the process being killed."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int) -> Callable[[], int]:
    """Lets the given call of any system function that a save relies on end the process."""
    calls = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Crash
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(os, "fsync", wrap(os.fsync))
    monkeypatch.setattr(os, "replace", wrap(os.replace))
    monkeypatch.setattr(Path, "unlink", wrap(Path.unlink))
    return lambda: calls


# Five parts, the manifest and the folder are synced, the manifest is moved into its place, the
# folder is synced again and five old files are deleted: the eighth call is the move.
@pytest.mark.parametrize("call", range(1, 15))
def test_a_crash_at_any_step_leaves_the_old_index_or_the_new_one(
    saved: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, call)
        with pytest.raises(Crash):
            new_index().save(saved)
    loaded = FastLaneIndex.load(saved)
    expected = old_index() if call <= 8 else new_index()
    assert loaded.ids == expected.ids
    assert search(loaded) == search(expected)
    new_index().save(saved)
    assert FastLaneIndex.load(saved).ids == ["new"]
    assert len(names(saved)) == 7


def test_a_save_takes_the_steps_that_are_tried_above(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = crash_at(monkeypatch, call=0)
    new_index().save(saved)
    assert count() == 14


@pytest.mark.parametrize("call", range(1, 10))
def test_a_crash_in_a_fresh_folder_leaves_no_index_and_no_obstacle(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, call)
        with pytest.raises(Crash):
            new_index().save(tmp_path)
    if call <= 8:
        with pytest.raises(FileNotFoundError, match="is no FastLane index"):
            FastLaneIndex.load(tmp_path)
    else:
        assert FastLaneIndex.load(tmp_path).ids == ["new"]
    old_index().save(tmp_path)
    assert search(FastLaneIndex.load(tmp_path)) == search(old_index())
    assert len(names(tmp_path)) == 7


@pytest.mark.parametrize("call", range(1, 20))
def test_a_crash_in_a_commit_of_changes_leaves_the_last_one_or_this_one(
    saved: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = changed(FastLaneIndex.load(saved))
    with monkeypatch.context() as patch:
        count = crash_at(patch, call)
        try:
            index.save(saved)
        except Crash:
            assert call <= 10
        else:
            assert (
                count() == 10
            )  # five parts, a mask, the manifest, the folder, the move, the folder
    loaded = FastLaneIndex.load(saved)
    expected = old_index() if call <= 9 else changed(old_index())
    assert loaded.ids == expected.ids
    assert search(loaded) == search(expected)
    loaded.delete([1])
    loaded.save(saved)
    assert FastLaneIndex.load(saved).ids == loaded.ids


def test_files_half_written_by_a_crash_do_no_harm(saved: Path) -> None:
    for name in ("vectors-000002.faiss", "documents-000002.sqlite", "index.json.tmp"):
        (saved / name).write_bytes(b"half")
    assert search(FastLaneIndex.load(saved)) == search(old_index())
    new_index().save(saved)
    assert FastLaneIndex.load(saved).ids == ["new"]
    assert "index.json.tmp" not in names(saved)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_and_the_old_index_stays(saved: Path) -> None:
    # FAISS by itself only prints that closing a small file failed.
    before = shutil.copytree(saved, saved.with_name("before"))
    (saved / "vectors-000002.faiss").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        new_index().save(saved)
    (saved / "vectors-000002.faiss").unlink()
    assert [(saved / name).read_bytes() for name in names(saved)] == [
        (before / name).read_bytes() for name in names(before)
    ]
    assert search(FastLaneIndex.load(saved)) == search(old_index())
