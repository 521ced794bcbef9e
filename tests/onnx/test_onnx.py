"""One graph of a model: the same vectors in float32, near ones in int8, and clear errors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.cli.main import main
from fastlane_st.new_model import from_backbone
from fastlane_st.onnx import backend as backends
from fastlane_st.onnx import graph as graphs
from fastlane_st.onnx.backend import Chosen, choose
from fastlane_st.onnx.graph import FILES, INPUTS, export_graph, graph_digest
from fastlane_st.onnx.session import GraphForward, run_graph
from tests.conftest import DOCUMENTS, QUERIES

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LONG = " ".join([*DOCUMENTS, *DOCUMENTS])


def random_model(backbone: Path, **options: Any) -> FastLaneModel:
    """A model whose head says something, with route layers."""
    model = from_backbone(backbone, embedding_dim=8, num_route_layers=2, **options).eval()
    torch.manual_seed(3)
    parts = (model.router, model.projection, model.route_layers)
    for parameter in (one for part in parts for one in part.parameters()):
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def bert(backbone_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its graphs."""
    folder = tmp_path_factory.mktemp("graphs") / "checkpoint"
    model = random_model(backbone_folder("bert"))
    model.save_pretrained(folder)
    model = FastLaneModel.from_pretrained(folder)
    for dtype, name in FILES.items():
        export_graph(model, folder / "onnx" / name, dtype)
    return folder


def assert_alike(one: Any, other: Any, atol: float) -> None:
    for task, texts in (("query", [*QUERIES, "set"]), ("document", [*DOCUMENTS, LONG, "", "set"])):
        for num_routes in (1, 2, None) if task == "query" else (None, 0.5):
            options = {"task": task, "num_routes": num_routes, "batch_size": 3}
            for found, expected in zip(
                one.encode(texts, **options), other.encode(texts, **options), strict=True
            ):
                torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlm-roberta"])
def test_a_graph_gives_the_vectors_of_torch(
    kind: str, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = random_model(backbone_folder(kind))
    export_graph(model, tmp_path / "model.onnx")
    model.save_pretrained(tmp_path / "checkpoint")
    other = FastLaneModel.from_pretrained(tmp_path / "checkpoint")
    run_graph(other, GraphForward(tmp_path / "model.onnx"))
    assert_alike(other, model, 1e-4)


def test_the_encoder_takes_the_graph_of_its_folder(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "export_graph", None)  # it is there
    encoder, expected = FastLaneEncoder(bert, backend="onnx"), FastLaneEncoder(bert)
    assert encoder.runs_graph
    assert not expected.runs_graph
    for query in QUERIES:
        torch.testing.assert_close(
            encoder.encode_query(query), expected.encode_query(query), rtol=0, atol=1e-4
        )
    index = FastLaneIndex.build(encoder, DOCUMENTS)
    index.encoder = expected  # of the same checkpoint
    for hits, wanted in zip(
        index.search(QUERIES, 3),
        FastLaneIndex.build(expected, DOCUMENTS).search(QUERIES, 3),
        strict=True,
    ):
        assert [hit.id for hit in hits] == [hit.id for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-4)
    pickled = pickle.loads(pickle.dumps(encoder[0].model.forward))
    assert pickled.about == encoder[0].model.forward.about


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_half_precision_is_written_in_float32(
    dtype: torch.dtype, bert: Path, tmp_path: Path
) -> None:
    FastLaneModel.from_pretrained(bert).to(dtype).save_pretrained(tmp_path)
    assert main(["export", str(tmp_path), "--onnx"]) == 0
    encoder = FastLaneEncoder(tmp_path, backend="onnx")
    expected = FastLaneEncoder(tmp_path, dtype="float32")
    assert encoder.runs_graph
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    for query in QUERIES:
        torch.testing.assert_close(
            encoder.encode_query(query), expected.encode_query(query), rtol=0, atol=1e-4
        )


def test_int8_is_near(bert: Path) -> None:
    encoder, expected = FastLaneEncoder(bert, backend="onnx", dtype="int8"), FastLaneEncoder(bert)
    for found, wanted in zip(
        encoder.encode_document(DOCUMENTS, num_routes=None),
        expected.encode_document(DOCUMENTS, num_routes=None),
        strict=True,
    ):
        assert float((found * wanted).sum(dim=1).mean()) > 0.98
    sizes = [(bert / "onnx" / name).stat().st_size for name in FILES.values()]
    assert sizes[1] < sizes[0]
    kinds = {node.op_type for node in all_nodes(onnx.load(bert / "onnx" / FILES["int8"]).graph)}
    assert "MatMulInteger" in kinds


def test_a_graph_names_no_path_of_this_machine(bert: Path) -> None:
    for name in FILES.values():
        content = (bert / "onnx" / name).read_bytes()
        assert b"site-packages" not in content
        assert b"modeling_fastlane" not in content


def all_nodes(graph: Any) -> list[Any]:
    """The nodes of a graph and of the branches in it."""
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += all_nodes(attribute.g)
    return found


def test_one_route_needs_no_other_code(bert: Path) -> None:
    session = runtime.InferenceSession(str(bert / "onnx" / FILES["float32"]))
    model = FastLaneModel.from_pretrained(bert)
    features = model.tokenize(QUERIES, "query")
    given = [features["input_ids"].numpy(), features["attention_mask"].numpy(), np.array(True)]
    [found] = session.run(["one_route"], dict(zip(INPUTS, given, strict=True)))
    expected = np.concatenate(model.encode_query(QUERIES, num_routes=1, convert_to_numpy=True))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    [documents] = session.run(
        ["one_route"], {**dict(zip(INPUTS, given, strict=True)), "is_query": np.array(False)}
    )
    assert not documents.any()


def test_a_graph_is_of_the_tokens_that_are_views(bert: Path) -> None:
    model = FastLaneModel.from_pretrained(bert)
    cached = {graph_digest(model)}
    for name, value in (("document_skip_ids", [9]), ("use_special_tokens", True)):
        other = FastLaneModel.from_pretrained(bert)
        assert getattr(other.config, name) != value
        setattr(other.config, name, value)
        cached.add(graph_digest(other))
        with pytest.raises(ValueError, match="of other weights or settings"):
            run_graph(other, GraphForward(bert / "onnx" / FILES["float32"]))
    assert len(cached) == 3
    run_graph(model, GraphForward(bert / "onnx" / FILES["float32"]))


def test_a_graph_is_written_once_into_the_cache(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path))
    plain = tmp_path / "plain"
    FastLaneModel.from_pretrained(bert).save_pretrained(plain)
    written: list[Path] = []

    def write(model: FastLaneModel, path: Path, dtype: Any) -> None:
        written.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((bert / "onnx" / FILES[dtype]).read_bytes())

    monkeypatch.setattr(backends, "export_graph", write)
    for _ in range(2):
        assert FastLaneEncoder(plain, backend="onnx").runs_graph
    assert len(written) == 1
    assert written[0].parent == tmp_path / "onnx"


def test_a_graph_is_called_as_the_model_is(bert: Path) -> None:
    model = FastLaneModel.from_pretrained(bert)
    features = model.tokenize(QUERIES, "query")
    calls: list[dict[str, Any]] = [
        {},
        {"task": "document"},
        {"return_dict": False},
        {"task": "document", "return_dict": False},
    ]
    expected = [model(**features, **call) for call in calls]
    model.config.return_dict = False
    run_graph(model, GraphForward(bert / "onnx" / FILES["float32"]))
    calls[:2] = [{**call, "return_dict": True} for call in calls[:2]]
    pickled = pickle.loads(pickle.dumps(model.forward))
    for forward in (model, pickled):
        found = [forward(**features, **call) for call in [*calls, {}]]
        assert [type(one) for one in found] == [type(one) for one in [*expected, ()]]
        for one, other in zip(found, [*expected, expected[2]], strict=True):
            assert len(one) == len(other)
            for value, wanted in zip(tuple_of(one), tuple_of(other), strict=True):
                torch.testing.assert_close(value, wanted, rtol=0, atol=1e-4)


def test_without_route_layers_there_are_no_shifts(
    backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = from_backbone(backbone_folder("bert"), embedding_dim=8).eval()
    export_graph(model, tmp_path / "model.onnx")
    features = model.tokenize(QUERIES, "query")
    expected = model(**features)
    run_graph(model, GraphForward(tmp_path / "model.onnx"))
    for forward in (model, pickle.loads(pickle.dumps(model.forward))):
        found = forward(**features)
        assert list(found) == list(expected)
        assert found.route_shifts is None


def tuple_of(output: Any) -> tuple[torch.Tensor, ...]:
    return output if isinstance(output, tuple) else output.to_tuple()


def test_bad_graphs_are_refused(bert: Path, tmp_path: Path) -> None:
    model = FastLaneModel.from_pretrained(bert)
    good = bert / "onnx" / FILES["float32"]
    with pytest.raises(FileNotFoundError, match="there is no graph"):
        GraphForward(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(good.read_bytes()[:1000])
    with pytest.raises(ValueError, match="can't be read as ONNX"):
        GraphForward(tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match=r"no provider for device 'cuda' here, only .*CPU"):
        GraphForward(good, "cuda")
    written = onnx.load(good)
    about = json.loads(written.metadata_props[-1].value)
    for change, said in (
        ({"format": 9}, "of this version of fastlane_st"),
        ({"checkpoint": "0" * 64}, "of other weights"),
    ):
        written.metadata_props[-1].value = json.dumps({**about, **change})
        onnx.save(written, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match=said):
            run_graph(model, GraphForward(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match=r"float32, got torch\.bfloat16"):
        export_graph(model.to(torch.bfloat16), tmp_path / "half.onnx")
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_graph_takes_no_adapter_and_stays_where_it_is(bert: Path) -> None:
    encoder = FastLaneEncoder(bert, backend="onnx")
    for change in (encoder.load_adapter, encoder.add_adapter):
        with pytest.raises(ValueError, match="a graph has no adapters"):
            change("anything")
    with pytest.raises(ValueError, match="stays where it was opened"):
        encoder.to("meta")
    assert encoder.to("cpu") is encoder


def test_auto_takes_torch_for_a_model_that_can_not_be_a_graph(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (graphs, backends):
        monkeypatch.setattr(module, "processor_flags", lambda: VNNI)
    assert FastLaneEncoder(bert, backend="auto").runs_graph
    model = FastLaneModel.from_pretrained(bert)
    model.config.query_expansion = {"strategy": "fixed", "length": 12}
    model.save_pretrained(tmp_path)
    encoder = FastLaneEncoder(tmp_path, backend="auto")
    assert not encoder.runs_graph
    assert len(encoder.encode_query(QUERIES[0], num_routes=None)) == 10  # without [CLS] and [SEP]


VNNI, BF16, PLAIN = ["avx512_vnni"], ["avx512_bf16", "avx512_vnni"], ["avx2"]
AMX, NO_BYTES = [*BF16, "amx_bf16"], ["avx512_bf16"]


@pytest.mark.parametrize(
    ("flags", "asked", "expected"),
    [
        (PLAIN, ("torch", None), ("torch", None)),
        (PLAIN, ("auto", "auto"), ("torch", None)),
        (VNNI, ("auto", "auto"), ("onnx", "int8")),
        (BF16, ("auto", "auto"), ("onnx", "int8")),
        (NO_BYTES, ("auto", "auto"), ("torch", "bfloat16")),
        (AMX, ("auto", "auto"), ("torch", "bfloat16")),
        (BF16, ("onnx", "auto"), ("onnx", "int8")),
        (PLAIN, ("onnx", "auto"), ("onnx", "float32")),
        (PLAIN, ("onnx", None), ("onnx", "float32")),
        (PLAIN, ("torch", "bfloat16"), ("torch", "bfloat16")),
        (PLAIN, ("auto", "int8"), ("onnx", "int8")),
        (PLAIN, ("auto", "bfloat16"), ("torch", "bfloat16")),
        (BF16, ("torch", "auto"), ("torch", "bfloat16")),
    ],
)
def test_what_is_chosen(
    flags: list[str], asked: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (graphs, backends):
        monkeypatch.setattr(module, "processor_flags", lambda: flags)
    assert choose(*asked, "cpu") == Chosen(*expected)


def test_what_is_asked_for_is_chosen_beside_a_gpu_as_well() -> None:
    assert choose("onnx", "auto", "cuda") == Chosen("onnx", "float32")
    assert choose("auto", "int8", "cuda") == Chosen("onnx", "int8")
    assert choose("auto", "auto", "cuda") == Chosen("torch", None)


def test_without_a_device_a_graph_is_judged_by_the_cpu_beside_a_gpu_as_well(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (graphs, backends):
        monkeypatch.setattr(module, "processor_flags", lambda: VNNI)
    assert choose("onnx", "auto") == Chosen("onnx", "int8")
    assert choose("auto", "auto") == Chosen("torch", None)
    opened = FastLaneEncoder(bert, backend="onnx", dtype="auto")[0].model.forward
    assert (opened.device, opened.path.name) == ("cpu", FILES["int8"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("tflite", None), "backend must be one of 'torch', 'onnx', 'auto', got 'tflite'"),
        (("torch", "int4"), "dtype must be one of"),
        (("torch", "int8"), "dtype 'int8' needs backend='onnx'"),
        (("onnx", "bfloat16"), "dtype 'bfloat16' needs backend='torch'"),
    ],
)
def test_what_can_not_be_is_named(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(*asked)
