"""How fast each backend encodes documents and single queries, against torch in float32.

    python -m benchmarks.speed.backends --out benchmarks/results/backends.json

In each round every backend encodes the same documents in batches, and then single queries; a ratio is torch's
seconds over a backend's in the same round, so that above 1 is faster. Threads are torch's.

`st-onnx` is what Sentence Transformers' own ONNX backend runs: one mean vector a text, by a graph of the
untouched backbone alone. The backend itself can't be installed beside Sentence Transformers 6, as of
optimum-onnx 0.1.0.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from sentence_transformers import SentenceTransformer

from fastlane_st.demo.python_docs import python_documents
from fastlane_st.hub import base_weights
from fastlane_st.onnx.graph import processor_flags

from ..common.encoding import encoder_by
from ..common.environment import command, environment
from ..common.results import write_results
from .encoding import BATCH_SIZE, call_seconds, queries, spread

CONTROL = "torch:float32"
FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
Encode = Callable[[list[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="fastlane-minilm")
    parser.add_argument(
        "--backends", default=f"{CONTROL},torch:bfloat16,onnx:float32,onnx:int8,st-onnx"
    )
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = [document.content for document in islice(python_documents(), options.documents)]
    asked = queries(texts)[: options.queries]
    calls = {name: calls_of(name, options.model) for name in options.backends.split(",")}
    for encode_documents, encode_query in calls.values():  # warm
        encode_documents(texts[:BATCH_SIZE])
        encode_query(asked[:1])
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"documents": [], "query": []} for name in calls
    }
    for _ in range(options.rounds):
        for name, (encode_documents, encode_query) in calls.items():
            seconds[name]["documents"].append(call_seconds(partial(encode_documents, texts)))
            each = [call_seconds(partial(encode_query, [query])) for query in asked]
            seconds[name]["query"].append(statistics.median(each))
    found = {
        "command": command(),
        "environment": environment(),
        "instructions": [flag for flag in FLAGS if flag in processor_flags()],
        "batch_size": BATCH_SIZE,
        "rounds": options.rounds,
        "documents": len(texts),
        "characters_per_document": statistics.mean(map(len, texts)),
        "queries": len(asked),
        "backends": {
            name: facts_of(one, seconds[CONTROL], len(texts)) for name, one in seconds.items()
        },
    }
    write_results(options.out, found)
    for name, one in found["backends"].items():
        print(name, one)


def calls_of(name: str, model: str) -> tuple[Encode, Encode]:
    """What encodes documents, and queries by one route."""
    if name == "st-onnx":
        dense = over_backbone_graph()
        return (
            lambda texts: dense.encode(texts, batch_size=BATCH_SIZE),
            lambda texts: dense.encode(texts, batch_size=BATCH_SIZE),
        )
    encoder = encoder_by(name, model)
    return (
        lambda texts: encoder.encode_document(texts, batch_size=BATCH_SIZE, num_routes=None),
        lambda texts: encoder.encode_query(texts, num_routes=1),
    )


def over_backbone_graph() -> SentenceTransformer:
    """Sentence Transformers whose backbone's forward pass is an ONNX graph."""
    dense = SentenceTransformer(str(base_weights()), device="cpu")
    backbone: Any = dense[0].model
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in inputs}
    shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        backbone.eval(), kwargs=example, dynamo=True, dynamic_shapes=dict.fromkeys(inputs, shape)
    )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    taken = [each.name for each in session.get_inputs()]

    def forward(**features: Any) -> dict[str, torch.Tensor]:
        states, *_ = session.run(None, {name: features[name].numpy() for name in taken})
        return {"last_hidden_state": torch.from_numpy(states)}

    backbone.forward = forward
    return dense


def facts_of(
    seconds: dict[str, list[float]], control: dict[str, list[float]], num_documents: int
) -> dict[str, Any]:
    """Rates, and ratios to the control of the same round."""
    return {
        "documents_per_second": num_documents / statistics.median(seconds["documents"]),
        "query_ms": 1e3 * statistics.median(seconds["query"]),
        "times_faster": {
            kind: spread(
                [other / own for own, other in zip(seconds[kind], control[kind], strict=True)]
            )
            for kind in seconds
        },
    }


if __name__ == "__main__":
    main()
