"""The search command, on a tiny checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli
from fastlane_st.adapters import LoraSettings, lora_config
from fastlane_st.index.hybrid import HybridSearch
from fastlane_st.modeling.modeling_fastlane import FastLaneModel
from tests.conftest import DOCUMENTS


def test_index_then_search_prints_rank_score_id_and_text(
    index_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = [str(index_folder), "sort the list", "--top-k", "2", "--routes", "1"]
    assert cli.main(["search", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    encoder = FastLaneEncoder(checkpoint)
    index = FastLaneIndex.load(index_folder, encoder)
    [best, second] = index.search("sort the list", top_k=2, num_routes=1)
    assert lines[0].replace("»", "").replace("«", "") == "sort the list"
    assert lines[2] == f"  1.  {best.score:.4f}  {best.id}"
    assert lines[3].replace("»", "").replace("«", "").strip() == best.text
    explanations = index.explain("sort the list", [best, second])
    met = {one.document_span for one in explanations[0].strong if one.document_span}
    assert lines[3].count("»") == min(len(met), 4)
    assert lines[5] == f"  2.  {second.score:.4f}  {second.id}"


def test_an_adapter_answers_in_the_words_of_its_own_encoder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    model.add_adapter(lora_config(model, LoraSettings(rank=2)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    encoder = FastLaneEncoder(tmp_path / "adapter")
    index = FastLaneIndex.build(encoder, DOCUMENTS)
    index.save(tmp_path / "index")
    arguments = [str(tmp_path / "index"), "sort", "--model", str(tmp_path / "adapter"), "--json"]
    capsys.readouterr()
    assert cli.main(["search", *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    hits = index.search("sort", num_routes=None)  # the router's own default, untrained
    assert [(row["id"], row["score"]) for row in rows] == [(hit.id, hit.score) for hit in hits]


def test_an_untrained_router_is_said_and_all_tokens_answer(
    index_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["search", str(index_folder), "sort"]) == 0
    assert "the router of this checkpoint is untrained" in capsys.readouterr().err


def test_an_index_of_another_checkpoint_is_refused(
    index_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FastLaneEncoder(checkpoint)
    assert FastLaneIndex.load(index_folder, other).checkpoint
    with torch.no_grad():
        other[0].model.projection.linear.weight[0, 0] += 1e-3
    other.save_pretrained(str(tmp_path / "other"))
    assert cli.main(["search", str(index_folder), "sort", "--model", str(tmp_path / "other")]) == 1
    assert "the index was built with another checkpoint" in capsys.readouterr().err
    index = FastLaneIndex.load(index_folder)
    index.checkpoint = []
    index.encoder = other
    half = FastLaneEncoder(checkpoint, model_kwargs={"dtype": torch.float16})
    assert FastLaneIndex.load(index_folder, half).encoder is half
    model = FastLaneModel.from_pretrained(checkpoint)
    assert FastLaneIndex.load(index_folder, model).encoder is model


def test_a_model_of_another_dimension_is_refused(
    index_folder: Path, backbone_folder: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = backbone_folder("bert")  # type: ignore[operator]
    encoder = FastLaneEncoder.from_backbone(
        folder, embedding_dim=3, router_dim=8, calibration_texts=DOCUMENTS
    )
    encoder.save_pretrained(tmp_path / "other")
    model = ["--model", str(tmp_path / "other")]
    assert cli.main(["search", str(index_folder), "sort", *model]) == 1
    assert "the encoder gives 3-dimensional vectors, the index holds 4" in capsys.readouterr().err


def test_an_index_that_names_no_model_asks_for_one(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    FastLaneIndex.build(encoder, DOCUMENTS).save(tmp_path)
    assert cli.main(["search", str(tmp_path), "sort"]) == 1
    assert "doesn't name the model" in capsys.readouterr().err
    assert cli.main(["search", str(tmp_path), "sort", "--model", str(checkpoint)]) == 0


def test_search_prints_a_hit_a_line_as_json(
    index_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    queries = ["sort the list", "read a file"]
    options = ["--json", "--top-k", "2", "--routes", "2"]
    assert cli.main(["search", str(index_folder), *queries, *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    index = FastLaneIndex.load(index_folder, FastLaneEncoder(checkpoint))
    expected = [
        {
            "query": query,
            "id": hit.id,
            "score": hit.score,
            "text": hit.text,
            "metadata": {},
            "span": None,
            "matches": [
                {
                    "query_position": match.query_position,
                    "document_position": match.document_position,
                    "similarity": match.similarity,
                }
                for match in hit.matches
            ],
            **explanation.to_dict(query, hit.text),
        }
        for query in queries
        for hits in [index.search(query, top_k=2, num_routes=2)]
        for hit, explanation in zip(hits, index.explain(query, hits), strict=True)
    ]
    assert rows == expected
    assert len(rows) == 4
    assert len(rows[0]["matches"]) == 2


@pytest.mark.parametrize(
    ("options", "count"),
    [(["--rerank", "1"], 1), (["--rerank", "3"], 3), (["--rerank", "3", "--top-k", "2"], 2)],
)
def test_fewer_hits_are_shown_than_are_ranked_again(
    options: list[str], count: int, index_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    search = ["search", str(index_folder), "sort", "--routes", "1", "--json"]
    assert cli.main([*search, *options]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count


def test_hybrid_search_fuses_words_with_vectors(
    index_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    index = FastLaneIndex.load(index_folder, FastLaneEncoder(checkpoint))
    for options, given in (
        ([], {}),
        (["--rerank", "2", "--top-k", "2"], {"rerank": 2, "depth": 2}),
    ):
        search = ["search", str(index_folder), "sort list", "--routes", "1", "--hybrid", *options]
        assert cli.main([*search, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        top_k = 2 if given else 10
        [fused] = HybridSearch(index).search(["sort list"], top_k, num_routes=1, **given)
        assert [(row["id"], row["score"]) for row in rows] == [(hit.id, hit.score) for hit in fused]
    assert cli.main([*search]) == 0
    assert f"  1.  {fused[0].score:.4f}  {fused[0].id}" in capsys.readouterr().out


def test_hybrid_search_without_bm25s_is_refused_before_the_model_is_loaded(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    search = ["search", str(index_folder), "sort", "--hybrid", "--model", "no-such-checkpoint"]
    assert cli.main(search) == 1
    assert "hybrid search needs bm25s" in capsys.readouterr().err


# --- queries


def test_several_queries_and_lines_of_standard_input_are_answered_alike(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["search", str(index_folder), "--top-k", "1"]
    single = ""
    for query in ("sort the list", "read a file"):
        assert cli.main([*arguments, query]) == 0
        single += capsys.readouterr().out
    assert cli.main([*arguments, "sort the list", "read a file"]) == 0
    assert capsys.readouterr().out == single
    monkeypatch.setattr("sys.stdin", StringIO("sort the list\r\n\n  \nread a file"))
    assert cli.main([*arguments, "-"]) == 0
    assert capsys.readouterr().out == single


def test_a_query_that_is_no_unicode_is_wrong_usage(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"caf\xe9 json\n"), "utf-8"))
    for query in ("caf\udce9 json", "-"):
        with pytest.raises(SystemExit) as raised:
            cli.main(["search", str(index_folder), query])
        assert raised.value.code == 2
        assert r"expected valid Unicode, got 'caf\udce9 json'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{", "expected JSON, got '{': Expecting property name"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"$not": ' * 3000 + "{}" + "}" * 3000, "nested too deeply"),
    ],
)
def test_a_filter_that_cannot_be_read_is_wrong_usage(
    where: str, message: str, index_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["search", str(index_folder), "sort", "--where", where])
    assert raised.value.code == 2
    problem = capsys.readouterr().err
    assert "Invalid value for '--where'" in problem
    assert message in problem
    assert len(problem) < 2000


def test_a_filter_too_deep_for_the_engine_is_wrong_usage(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overflow(*args: object, **options: object) -> None:
        raise RecursionError

    monkeypatch.setattr(FastLaneIndex, "search", overflow)
    with pytest.raises(SystemExit) as raised:
        cli.main(["search", str(index_folder), "sort", "--where", '{"a": 1}'])
    assert raised.value.code == 2
    assert "Invalid value for '--where': it is nested too deeply" in capsys.readouterr().err
    with pytest.raises(RecursionError):
        cli.main(["search", str(index_folder), "sort"])


# --- terminals


def test_what_an_encoding_cannot_hold_is_escaped(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "index"
    corpus.write_text('{"_id": "naïve", "text": "sort → the list \\u001b[2J"}\n', "utf-8")
    assert cli.main(["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]) == 0
    for encoding, id in (
        ("ascii", rb"na\xefve"),
        ("cp1252", b"na\xefve"),
        ("utf-8", "naïve".encode()),
    ):
        out = BytesIO()
        monkeypatch.setattr("sys.stdout", TextIOWrapper(out, encoding))
        assert cli.main(["search", str(folder), "sort", "--routes", "1"]) == 0
        shown = out.getvalue()
        assert id in shown
        assert ("→".encode() if encoding == "utf-8" else rb"\u2192") in shown
        assert b"\x1b" not in shown
        assert rb"\x1b[2J" in shown


@pytest.mark.slow
def test_search_imports_neither_sentence_transformers_nor_the_other_commands(
    index_folder: Path,
) -> None:
    code = (
        "import sys; from fastlane_st.cli import main; "
        f"status = main(['search', {str(index_folder)!r}, 'sort']); "
        "names = [name.split('.')[1] for name in sys.modules if name.startswith('fastlane_st.')]; "
        "others = {'adding', 'building', 'data', 'demo', 'diagnostics', 'encoder', 'evaluation', 'hybrid'}; "
        "found = others & {*names} | {'datasets', 'sentence_transformers', 'sklearn'} & {*sys.modules}; "
        "sys.exit(str(found) if found else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
