"""Writes the graph: from token ids to everything that routing works on, for queries and for documents.

| input | | output | |
| --- | --- | --- | --- |
| `input_ids` | (B, T) int64 | `token_embeddings` | (B, T, D) float32, of unit length |
| `attention_mask` | (B, T) int64 | `router_logits` | (B, T) float32, a query's; 0 for documents |
| `is_query` | () bool | `token_mask` | (B, T) bool, true at the views of a text |
| | | `route_shifts` | (B, T, D) float32, a query's; 0 for documents |
| | | `last_hidden_state` | (B, T, H) float32 |
| | | `one_route` | (B, D) float32, a query's one routed vector; 0 for documents |

A document's vectors are `token_embeddings` where `token_mask` is true, and so are all views of a query.
`one_route` is all that a search by one route needs; more routes are made by `FastLaneModel.route`.
It relies on onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..files import replace_file
from ..modeling.fingerprint_fastlane import base_digest
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import FastLaneOutput
from ..modeling.routing_fastlane import Task, length_weights, unit

GraphDtype: TypeAlias = Literal["float32", "int8"]

FORMAT = 2
"""Of the inputs and outputs; a graph of another format is refused."""
INPUTS = ("input_ids", "attention_mask", "is_query")
OUTPUTS = (
    "token_embeddings",
    "router_logits",
    "token_mask",
    "route_shifts",
    "last_hidden_state",
    "one_route",
)
OPSET = 20
FILES: dict[GraphDtype, str] = {"float32": "model.onnx", "int8": "model_int8.onnx"}
"""Names in a checkpoint's folder `onnx`."""
ABOUT = "fastlane"
WRITTEN = (
    "query_skip_ids",
    "document_skip_ids",
    "special_token_ids",
    "use_special_tokens",
    "query_expansion",
    "router_num_heads",
)
"""Fields of a configuration that a graph depends on beside `view_settings` and what weights tell by shape."""
UNWRITTEN = {
    *("_name_or_path", "architectures", "dtype", "transformers_version"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_cache"),
}
"""Fields of a backbone's configuration that say where it is from or how it is called, not what it gives."""


class EncoderGraph(nn.Module):
    """What is traced: the model's forward pass, with the side as an input."""

    def __init__(self, model: FastLaneModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, is_query: Tensor
    ) -> tuple[Tensor, ...]:
        model = self.model
        hidden = model.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        present = attention_mask.bool()

        def query(hidden: Tensor, seen: Tensor, views: Tensor, _: Tensor) -> tuple[Tensor, ...]:
            output = model.score_tokens(hidden, seen | views, views, "query")
            shifts = output.route_shifts
            if shifts is None:
                shifts = torch.zeros_like(output.token_embeddings)
            one = one_route(model, output, views, shifts)
            logits = output.router_logits
            assert logits is not None
            found = (
                output.token_embeddings,
                logits,
                views,
                shifts,
                one,
            )
            return tuple(each.clone() for each in found)  # branches may not give an input back

        def document(hidden: Tensor, seen: Tensor, _: Tensor, views: Tensor) -> tuple[Tensor, ...]:
            output = model.score_tokens(hidden, seen | views, views, "document")
            embeddings = output.token_embeddings
            nothing = torch.zeros_like(embeddings)
            found = (
                embeddings,
                torch.zeros_like(embeddings[..., 0]),
                views,
                nothing,
                nothing[:, 0],
            )
            return tuple(each.clone() for each in found)

        masks = [self.token_mask(input_ids, present, side) for side in ("query", "document")]
        found = torch.cond(is_query, query, document, (hidden, present, *masks))
        *most, one = found
        return (*most, hidden, one)

    def token_mask(self, input_ids: Tensor, present: Tensor, task: Task) -> Tensor:
        """`FastLaneModel.token_mask` of operations that ONNX has."""
        config = self.model.config
        skipped = config.query_skip_ids if task == "query" else config.document_skip_ids
        if not config.use_special_tokens:
            skipped = [*skipped, *config.special_token_ids]
        if not skipped:
            return present
        is_skipped = (input_ids.unsqueeze(-1) == torch.tensor(skipped)).any(dim=-1)
        content = present & ~is_skipped
        return content | (present & ~content.any(dim=-1, keepdim=True))


def one_route(
    model: FastLaneModel, output: FastLaneOutput, views: Tensor, shifts: Tensor
) -> Tensor:
    """(B, D): what `ViewProjection.routed` gives for the token of the highest logit as the one route.

    That route stands for all tokens, so that none has to be assigned, which ONNX can't for any number.
    """
    assert output.router_logits is not None
    best = output.router_logits.masked_fill(~views, -torch.inf).argmax(dim=-1, keepdim=True)
    chosen = best.unsqueeze(-1).expand(-1, -1, shifts.shape[-1])
    embeddings = output.token_embeddings
    config = model.config
    weights = length_weights(
        output.last_hidden_state, views.unsqueeze(1), config.query_length_power
    )
    mean = unit(weights.to(embeddings.dtype) @ embeddings)
    has_others = (views.sum(dim=1) > 1)[:, None, None]
    mixed = (
        embeddings.gather(1, chosen)
        + config.route_context_weight * mean
        + has_others * shifts.gather(1, chosen)
    )
    return unit(mixed).squeeze(1)


def export_graph(
    model: FastLaneModel, path: str | os.PathLike[str], dtype: GraphDtype = "float32"
) -> None:
    """Writes a model as one ONNX file; its weights are in it.

    Args:
        model: On the CPU in float32, without an adapter that isn't merged.
        path: The file.
        dtype: "int8" stores the weights of linear layers in a byte each and multiplies in integers, with
            ranges of activations taken as they come ("dynamic quantisation").

    Raises:
        ImportError: The extra `onnx` isn't installed.
        ValueError: The model can't be written.
    """
    onnx = import_onnx()
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(
            f"a model is exported from the CPU in float32, got {model.dtype} on {model.device}"
        )
    if model.config.query_expansion is not None:
        raise ValueError(
            "a model with query expansion can't be exported: its added tokens are no part of input_ids"
        )
    if getattr(model, "has_active_adapter", False):
        raise ValueError("merge the adapter first: model.merge_and_unload()")
    about = {"format": FORMAT, "dtype": dtype, "checkpoint": graph_digest(model)}

    def write(scratch: Path) -> None:
        trace(model, scratch)
        if dtype == "int8":
            quantise(scratch)
        written = onnx.load(scratch)
        forget_sources(written.graph)
        entry = written.metadata_props.add()
        entry.key, entry.value = ABOUT, json.dumps(about)
        onnx.save(written, scratch)

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), write)


def graph_digest(model: FastLaneModel) -> str:
    """Identifies what is written into a graph: weights, how they are used, and which tokens are views."""
    config = model.config
    settings: dict[str, Any] = {name: getattr(config, name) for name in WRITTEN}
    backbone = config.get_text_config().to_diff_dict()
    settings["backbone"] = {key: backbone[key] for key in backbone.keys() - UNWRITTEN}
    content = base_digest(model, torch.float32) + json.dumps(settings, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def trace(model: FastLaneModel, path: Path) -> None:
    """Traces the graph with two short texts, and writes it in float32.

    Attention is traced as plain products: onnxruntime runs what becomes of torch's fused one more slowly,
    with a guard against rows in which nothing is attended to.
    """
    was_training = model.training
    attention = model.backbone.config._attn_implementation
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    model.backbone.set_attn_implementation("eager")
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch, tokens = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = {0: batch, 1: tokens}
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own exporter
            program = torch.onnx.export(
                EncoderGraph(model).eval(),
                (ids, mask, torch.tensor(True)),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes={"input_ids": shapes, "attention_mask": shapes, "is_query": None},
            )
        assert program is not None
        program.save(path, external_data=False)
    finally:
        exporter.setLevel(level)
        model.backbone.set_attn_implementation(attention)
        model.train(was_training)
        for parameter, value in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(value)


def forget_sources(graph: Any) -> None:
    """Removes what the exporter says of each node's origin: tracebacks with paths of this machine."""
    for described in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        described.doc_string = ""
        del described.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                forget_sources(attribute.g)


def quantise(path: Path) -> None:
    """Replaces the products of linear layers in a graph by products of integers, in place."""
    import_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with without_advice():
        quantize_dynamic(
            path,
            path,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=not has_vnni(),  # without VNNI the sums of products of a whole byte overflow
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": True},
        )


@contextmanager
def without_advice() -> Iterator[None]:
    """Keeps onnxruntime from advising a step that a traced graph doesn't need, by the root logger."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # without any, logging.warning would set one up that stays
    root.addFilter(_is_no_advice)
    try:
        yield
    finally:
        root.removeFilter(_is_no_advice)
        root.removeHandler(handler)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def read_about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What a graph says of itself; a ValueError for one that isn't ours or of another format."""
    try:
        about: dict[str, Any] = json.loads(metadata[ABOUT])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, not {FORMAT}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} isn't a graph of this version of fastlane_st ({error}): write it anew with "
            "'fastlane export DIR --onnx'"
        ) from None
    return about


def has_vnni() -> bool:
    """Whether the processor multiplies bytes without overflow: AVX-512 VNNI, AVX-VNNI, AMX, or ARM."""
    flags = processor_flags()
    return not flags or any(
        name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
    )


def processor_flags() -> Sequence[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = (
        line.split(":", 1)[1] for line in lines if line.lower().startswith(("flags", "features"))
    )
    return next(found, "").split()


def import_onnx() -> ModuleType:
    """The module `onnx`, with what an export needs beside it, imported at first use."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError('an ONNX graph needs pip install "fastlane-st[onnx]"') from error
    del onnxruntime
    module: ModuleType = onnx
    return module
