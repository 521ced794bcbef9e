"""Which backend and number format encode, and where the graph is that "onnx" runs."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from ..hub import cache_folder
from ..modeling.modeling_fastlane import FastLaneModel
from .graph import (
    FILES,
    FORMAT,
    GraphDtype,
    export_graph,
    graph_digest,
    has_vnni,
    processor_flags,
)

Backend: TypeAlias = Literal["torch", "onnx", "auto"]
Dtype: TypeAlias = Literal["float32", "bfloat16", "int8", "auto"]

FOLDER = "onnx"
"""Of a checkpoint's graphs."""
AMX = "amx_bf16"
BFLOAT16 = (AMX, "avx512_bf16", "bf16")
"""Flags of processors that multiply bfloat16; without them it is far slower than float32."""

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """A backend, and the numbers it computes with; None leaves those of the checkpoint."""

    backend: str
    dtype: str | None


def choose(backend: Backend, dtype: Dtype | None, device: Any = None) -> Chosen:
    """Settles a backend and a number format, each of which may be "auto".

    On the CPU "auto" is bfloat16 in torch on a processor with AMX, int8 in onnxruntime where the processor
    has instructions for it, bfloat16 in torch where it multiplies that alone, and float32 in torch elsewhere.
    On any other device it is torch. Without one a graph runs on the CPU, and torch on a GPU that is there.

    Raises:
        ValueError: A name that isn't one, or a format that the backend doesn't have.
    """
    for name, value, known in (
        ("backend", backend, get_args(Backend)),
        ("dtype", dtype, (None, *get_args(Dtype))),
    ):
        if value not in known:
            named = ", ".join(repr(each) for each in known if each)
            raise ValueError(f"{name} must be one of {named}, got {value!r}")
    if (backend, dtype) == ("torch", None):
        return Chosen("torch", None)
    if "auto" not in (backend, dtype):
        kept = dtype or "float32"
        if (backend, kept) in (("torch", "int8"), ("onnx", "bfloat16")):
            other = {"torch": "onnx", "onnx": "torch"}[backend]
            raise ValueError(f"dtype {kept!r} needs backend={other!r}, got {backend!r}")
        return Chosen(backend, kept)
    found = _fastest(backend, dtype, device)
    logger.info("encoding with %s in %s", found.backend, found.dtype or "the checkpoint's dtype")
    return found


def _fastest(backend: Backend, dtype: Dtype | None, device: Any) -> Chosen:
    usual = "cuda" if torch.cuda.is_available() and backend != "onnx" else "cpu"
    on_cpu = str(device or usual).startswith("cpu")
    asked = None if dtype == "auto" else dtype
    if backend == "onnx" or (backend == "auto" and asked == "int8"):
        return Chosen("onnx", asked or ("int8" if on_cpu and has_vnni() else "float32"))
    if backend == "torch" or not on_cpu or asked == "bfloat16":
        multiplies = on_cpu and any(name in processor_flags() for name in BFLOAT16)
        return Chosen("torch", asked or ("bfloat16" if multiplies else None))
    can_graph = has_vnni() and find_spec("onnxruntime") and find_spec("onnxscript")
    if asked is None and can_graph and AMX not in processor_flags():
        return Chosen("onnx", "int8")
    if asked is None and any(name in processor_flags() for name in BFLOAT16):
        return Chosen("torch", "bfloat16")
    return Chosen("torch", asked)


def graph_of(model: FastLaneModel, checkpoint: str, dtype: GraphDtype) -> Path:
    """The graph of a model: that of its checkpoint's folder, or one that is written once into the cache."""
    there = Path(checkpoint) / FOLDER / FILES[dtype]
    if there.exists():
        return there
    cached = cache_folder() / FOLDER / f"{graph_digest(model)[:16]}-{FORMAT}-{FILES[dtype]}"
    if not cached.exists():
        logger.info("writing the graph %s, once", cached)
        export_graph(model, cached, dtype)
    return cached
