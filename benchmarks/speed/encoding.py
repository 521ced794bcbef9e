"""Speed of encoding, importing and searching, as ratios within one run.

    python -m benchmarks.speed.encoding --out benchmarks/results/speed.json

Two calls that are compared run in turns, A B A B …, so that the machine's drift hits both. Reported are the
median of the pairwise ratios, the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from fastlane_st import FastLaneEncoder
from fastlane_st.demo.python_docs import python_documents
from fastlane_st.hub import base_weights
from fastlane_st.retrofit.source import read_fastlane

from ..common.environment import command, environment
from ..common.results import write_results

BATCH_SIZE = 32
ROUTE_LAYERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()

    texts = [document.content for document in islice(python_documents(), options.documents)]
    routed = FastLaneEncoder("fastlane-minilm")
    plain = plain_encoder(routed.fastlane_config.embedding_dim)
    shifted = with_route_layers(ROUTE_LAYERS)
    query = queries(texts)[0]
    results = {
        "command": command(),
        "environment": environment(),
        "dtype": "float32",
        "batch_size": BATCH_SIZE,
        "runs": options.runs,
        "documents": len(texts),
        "encode_documents": time_in_turns(
            lambda: routed.encode_document(texts, batch_size=BATCH_SIZE, num_routes=None),
            lambda: plain.encode_document(texts, batch_size=BATCH_SIZE),
            options.runs,
        ),
        "encode_documents_quarter": time_in_turns(
            lambda: routed.encode_document(texts, batch_size=BATCH_SIZE, num_routes=0.25),
            lambda: plain.encode_document(texts, batch_size=BATCH_SIZE),
            options.runs,
        ),
        "encode_queries": time_in_turns(
            lambda: routed.encode_query(queries(texts), batch_size=BATCH_SIZE, num_routes=1),
            lambda: plain.encode_query(queries(texts), batch_size=BATCH_SIZE),
            options.runs,
        ),
        "encode_one_query": time_in_turns(
            lambda: [routed.encode_query(query, num_routes=1) for _ in range(BATCH_SIZE)],
            lambda: [plain.encode_query(query) for _ in range(BATCH_SIZE)],
            options.runs,
        ),
        "route_layers": ROUTE_LAYERS,
        "encode_queries_with_route_layers": time_in_turns(
            lambda: shifted.encode_query(queries(texts), batch_size=BATCH_SIZE, num_routes=1),
            lambda: routed.encode_query(queries(texts), batch_size=BATCH_SIZE, num_routes=1),
            options.runs,
        ),
        "encode_one_query_with_route_layers": time_in_turns(
            lambda: [shifted.encode_query(query, num_routes=1) for _ in range(BATCH_SIZE)],
            lambda: [routed.encode_query(query, num_routes=1) for _ in range(BATCH_SIZE)],
            options.runs,
        ),
        "search": search_against_similarity(routed, texts, options.runs),
        "import_seconds": import_seconds(options.runs),
    }
    write_results(options.out, results)
    print(json.dumps(results, indent=2))


def plain_encoder(embedding_dim: int) -> MultiVectorEncoder:
    """ST's own multi-vector model over the same backbone, with a projection of the same size."""
    transformer = Transformer(
        str(base_weights()), query_length=128, document_length=256, unpad_inputs=False
    )
    dense = Dense(
        transformer.get_embedding_dimension(),
        embedding_dim,
        bias=False,
        activation_function=None,
        module_input_name="token_embeddings",
    )
    normalize = Normalize(module_input_name="token_embeddings")
    return MultiVectorEncoder(modules=[transformer, dense, MultiVectorMask(), normalize])


def with_route_layers(count: int) -> FastLaneEncoder:
    """The released model with untrained route layers, which cost what trained ones do."""
    model = read_fastlane("fastlane-minilm", num_route_layers=count)
    return FastLaneEncoder.from_model(model)


def queries(texts: list[str]) -> list[str]:
    """The first dozen words of each text: queries of a usual length."""
    return [" ".join(text.split()[:12]) for text in texts]


def search_against_similarity(
    encoder: FastLaneEncoder, texts: list[str], runs: int
) -> dict[str, Any]:
    """One-route search over the flat index against MaxSim by `similarity`, without encoding."""
    index = encoder.build_index(texts)
    documents = encoder.encode_document(texts, num_routes=None)
    routed = list(encoder.encode_query(queries(texts), num_routes=1))
    full = encoder.encode_query(queries(texts), num_routes=None)
    one = time_in_turns(
        lambda: index.search(routed, top_k=10),
        lambda: encoder.similarity(routed, documents).topk(10),
        runs,
    )
    everything = time_in_turns(
        lambda: index.search(routed, top_k=10),
        lambda: encoder.similarity(full, documents).topk(10),
        runs,
    )
    return {"vectors": index.num_vectors, "same_routes": one, "all_query_tokens": everything}


def time_in_turns(ours: Callable[[], Any], other: Callable[[], Any], runs: int) -> dict[str, Any]:
    """Times two calls in turns; the ratio is ours over the other's throughput: above 1 we are faster."""
    ours(), other()
    pairs = [(call_seconds(ours), call_seconds(other)) for _ in range(runs)]
    ratios = [theirs / own for own, theirs in pairs]
    return {
        "ours_seconds": statistics.median(own for own, _ in pairs),
        "other_seconds": statistics.median(theirs for _, theirs in pairs),
        "ratio": spread(ratios),
    }


def call_seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of some ratios, the least and the greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def import_seconds(runs: int) -> dict[str, float]:
    """Wall-clock seconds of `import fastlane_st`, without those of starting Python."""
    found: list[float] = []
    for _ in range(runs):
        bare, whole = (
            call_seconds(partial(subprocess.run, [sys.executable, "-c", code], check=True))
            for code in ("pass", "import fastlane_st")
        )
        found.append(whole - bare)
    return spread(found)


if __name__ == "__main__":
    main()
