"""Shards: encoded once each, by one process or a Ray cluster, and made an index of, whole or in parts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli
from fastlane_st.cli import encode as encode_command
from fastlane_st.data.rows import CorpusDocument
from fastlane_st.index.building import build_folder
from fastlane_st.shards import index as shards_index
from fastlane_st.shards.encode import SHARD_SIZE, encode_corpus
from fastlane_st.shards.folder import ShardFolder, read_shard
from fastlane_st.shards.index import index_shards
from tests.conftest import DOCUMENTS, QUERIES

pytest.importorskip("pyarrow")

CORPUS = [
    CorpusDocument(f"d{n}", f"{DOCUMENTS[n % len(DOCUMENTS)]} number {n}", metadata={"n": n})
    for n in range(20)
]
LONG = CorpusDocument("long", "sort a list and read the file " * 80)


def encode(folder: Path, checkpoint: Path, corpus: list[CorpusDocument] = CORPUS, **options: Any):
    options = {"shard_size": 3, "storage": "float32", **options}
    return encode_corpus(corpus, folder, str(checkpoint), **options)


def contents(folder: Path) -> dict[str, list[Any]]:
    """The documents of each shard, vectors as bytes."""
    return {
        path.stem: [
            (one.id, one.text, one.metadata, one.windows, one.views.vectors.tobytes())
            for one in read_shard(path)
        ]
        for path in sorted(folder.glob("*.parquet"))
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_hits(index: FastLaneIndex, expected: FastLaneIndex) -> None:
    for options in ({}, {"num_routes": None}, {"where": {"n": {"$lt": 9}}}):
        for hits, wanted in zip(
            index.search(QUERIES, 5, **options), expected.search(QUERIES, 5, **options), strict=True
        ):
            assert [hit.id for hit in hits] == [hit.id for hit in wanted]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted])
            assert [hit.span for hit in hits] == [hit.span for hit in wanted]


def test_an_index_of_shards_is_that_of_the_corpus(checkpoint: Path, tmp_path: Path) -> None:
    corpus = [*CORPUS, LONG, CorpusDocument("empty", "")]
    done = encode(tmp_path / "shards", checkpoint, corpus)
    assert [one.documents for one in done.shards] == [3, 3, 3, 3, 3, 3, 3, 1]
    assert done.encoded == 8
    assert names(tmp_path / "shards") == sorted(
        [*(f"{one.name}.parquet" for one in done.shards), "shards.json"]
    )
    index = index_shards(tmp_path / "shards", tmp_path / "index", metadata={"a": 1})
    encoder = FastLaneEncoder(checkpoint)
    expected = build_folder(tmp_path / "built", encoder, corpus, len(corpus))
    assert index.num_vectors == sum(one.vectors for one in done.shards) == expected.num_vectors
    for one in (index, FastLaneIndex.load(tmp_path / "index")):
        assert one.metadata == {"a": 1}
        assert one.checkpoint == expected.checkpoint
        one.encoder = encoder
        assert_same_hits(one, expected)
    assert index.search(LONG.text[:60], 1, ids=["long"])[0].span is not None


def test_an_interruption_loses_nothing_and_nothing_is_encoded_twice(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    encode(whole, checkpoint)
    encoded: list[str] = []
    original = ShardFolder.encode

    def stopping(self: ShardFolder, name: str, *rest: Any) -> None:
        if len(encoded) == 3:
            encoded.append("")
            raise KeyboardInterrupt
        original(self, name, *rest)
        encoded.append(name)

    monkeypatch.setattr(ShardFolder, "encode", stopping)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        encode(folder, checkpoint)
    with pytest.raises(ValueError, match="isn't encoded wholly"):
        index_shards(folder, tmp_path / "index")
    assert encode(folder, checkpoint).encoded == 4
    assert len(encoded) == len(set(encoded))
    assert contents(folder) == contents(whole)
    assert (folder / "shards.json").read_bytes() == (whole / "shards.json").read_bytes()
    assert encode(folder, checkpoint).encoded == 0


def test_a_changed_document_is_a_changed_shard(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    before = encode(folder, checkpoint).shards
    changed = [*CORPUS[:4], CorpusDocument("d4", "another text", metadata={"n": 4}), *CORPUS[5:]]
    after = encode(folder, checkpoint, changed)
    assert after.encoded == 1
    assert [one == other for one, other in zip(before, after.shards, strict=True)].count(False) == 1
    assert len(list(folder.glob("*.parquet"))) == len(after.shards)


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_parts_are_searched_as_the_whole_is(checkpoint: Path, tmp_path: Path, storage: Any) -> None:
    encode(tmp_path / "shards", checkpoint)
    parts = [
        index_shards(tmp_path / "shards", tmp_path / f"{n}", part=(n, 2), storage=storage)
        for n in (1, 2)
    ]
    whole = index_shards(tmp_path / "shards", tmp_path / "whole", storage=storage)
    assert [len(one) for one in (*parts, whole)] == [11, 9, 20]
    encoder = FastLaneEncoder(checkpoint)
    for one in (*parts, whole):
        one.encoder = encoder
    for query in QUERIES:
        together = sorted(
            [hit for one in parts for hit in one.search(query, 5)], key=lambda hit: -hit.score
        )
        expected = [hit.score for hit in whole.search(query, 5)]
        assert [hit.score for hit in together[:5]] == pytest.approx(expected)


def test_an_interrupted_index_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "shards", checkpoint)
    read: list[Path] = []

    def stopping(path: Path) -> Any:
        read.append(path)
        if len(read) == 4:
            raise KeyboardInterrupt
        return read_shard(path)

    monkeypatch.setattr(shards_index, "read_shard", stopping)
    folder = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        index_shards(tmp_path / "shards", folder)
    assert len(FastLaneIndex.load(folder)) == 9
    with pytest.raises(FileExistsError, match="resume if its building was interrupted"):
        index_shards(tmp_path / "shards", folder)
    with pytest.raises(ValueError, match="was started with"):
        index_shards(tmp_path / "shards", folder, storage="int8", resume=True)
    index = index_shards(tmp_path / "shards", folder, resume=True)
    assert len(read) == 3 + 1 + 4  # each shard once, but for the one that was interrupted
    assert index.ids == [one.id for one in CORPUS]
    with pytest.raises(ValueError, match="finished"):
        index_shards(tmp_path / "shards", folder, resume=True)


def test_shards_keep_integers_of_any_size(checkpoint: Path, tmp_path: Path) -> None:
    large = 2**60 + 1  # stores can't compare it, an index can
    encode(tmp_path / "shards", checkpoint, [CorpusDocument("a", "red car", metadata={"n": large})])
    index_shards(tmp_path / "shards", tmp_path / "index")
    index = FastLaneIndex.load(tmp_path / "index")
    [found] = index.get(["a"])
    assert found.metadata == {"n": large}


def test_bad_input_is_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    done = encode(folder, checkpoint)
    with pytest.raises(ValueError, match="shards with shard_size=3, got 4"):
        encode(folder, checkpoint, shard_size=4)
    with pytest.raises(ValueError, match="shards with storage='float32', got 'float16'"):
        encode(folder, checkpoint, storage="float16")
    with pytest.raises(ValueError, match="shards with dtype=None, got 'bfloat16'"):
        encode(folder, checkpoint, dtype="bfloat16")
    with pytest.raises(ValueError, match="engine must be"):
        encode(folder, checkpoint, engine="spark")
    with pytest.raises(ValueError, match="set engine='ray'"):
        encode(folder, checkpoint, workers=2)
    with pytest.raises(ValueError, match="no documents"):
        encode(tmp_path / "none", checkpoint, [])
    with pytest.raises(ValueError, match="twice"):
        encode(tmp_path / "twice", checkpoint, [CORPUS[0], CORPUS[0]])
    encode(tmp_path / "later", checkpoint, [*CORPUS[:4], CORPUS[0]])
    with pytest.raises(ValueError, match="there already"):
        index_shards(tmp_path / "later", tmp_path / "later-index")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        encode(tmp_path / "other", checkpoint)
    for part in ((0, 2), (3, 2), (9, 9)):
        with pytest.raises(ValueError, match=r"part|too few"):
            index_shards(folder, tmp_path / "index", part=part)
    broken = folder / f"{done.shards[2].name}.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"\.parquet can't be read"):
        index_shards(folder, tmp_path / "index")
    (folder / "shards.json").write_text("{")
    with pytest.raises(ValueError, match=r"shards\.json can't be read"):
        index_shards(folder, tmp_path / "index")


def test_the_commands_encode_and_index(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"_id": one.id, "text": one.text}) + "\n" for one in CORPUS)
    )
    assert encode_command.SHARD_SIZE == SHARD_SIZE
    shards, index = str(tmp_path / "shards"), str(tmp_path / "index")
    command = ["encode", str(corpus), "--out", shards, "--model", str(checkpoint)]
    command += ["--shard-size", "8"]
    assert cli.main(command) == 0
    assert "20 documents, " in capsys.readouterr().out
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["there"] == 3
    assert cli.main(["index", shards, "--out", index, "--storage", "float16"]) == 0
    assert cli.main(["search", index, "json loads", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
    for more, said in (
        (["--model", "x"], "--model was decided when"),
        (["--part", "2"], "--part must be K/N"),
    ):
        assert cli.main(["index", shards, "--out", f"{index}-2", *more]) == 1
        assert said in capsys.readouterr().err
    assert cli.main(["index", str(corpus), "--out", f"{index}-2", "--part", "1/2"]) == 1
    assert "--part is for shards" in capsys.readouterr().err
    assert cli.main([*command, "--engine", "ray", "--processes", "2"]) == 1
    assert "Ray has" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_loses_nothing(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    corpus = [CorpusDocument(f"d{n}", f"{DOCUMENTS[n % 5]} {n}") for n in range(300)]
    alone, folder = tmp_path / "alone", tmp_path / "ray"
    encode(alone, checkpoint, corpus)
    killed: list[int] = []
    is_done = threading.Event()

    def kill_one() -> None:
        while not is_done.is_set() and not killed:
            if len(list(folder.glob("*.parquet"))) >= 5:
                workers = shard_workers()
                if workers:
                    os.kill(workers[0], signal.SIGKILL)
                    killed.append(workers[0])
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        done = encode(folder, checkpoint, corpus, engine="ray", workers=2)
    finally:
        is_done.set()
        killer.join()
    assert killed
    assert done.encoded == 100
    assert sum(one.documents for one in done.shards) == 300
    found, expected = contents(folder), contents(alone)
    assert list(found) == list(expected)
    for name, documents in expected.items():
        for one, other in zip(found[name], documents, strict=True):
            assert one[:-1] == other[:-1]
            np.testing.assert_allclose(
                np.frombuffer(one[-1], np.float32), np.frombuffer(other[-1], np.float32), atol=1e-6
            )
    assert names(folder) == names(alone)
    assert not (folder / "waiting").exists()


def shard_workers() -> list[int]:
    """The processes of Ray that hold a worker of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"ShardWorker" in title:
            found.append(int(path.parent.name))
    return found
