"""Routes for a late-interaction model without any: the time of each phase, memory, and what they keep.

    python -m benchmarks.quality.retrofit --config training/fastlane-minilm.yaml --documents 12000 \\
        --pairs 600 --steps 1500 --scratch runs/retrofit --out benchmarks/results/retrofit.json

The model is plain late interaction over the untouched backbone of the configuration, as one builds it with
Sentence Transformers. Its index of the configuration's documents is built first; then it gets routes without
context and with both contexts, or with what `--contexts` names, over the vectors of that index.
`benchmarks.quality.checkpoints` over SCRATCH/none, SCRATCH/both and the same without training,
SCRATCH/none-untrained and SCRATCH/both-untrained, measures them on judged collections: all views of `none`
are its own MaxSim. SCRATCH/untrained is a new FastLane model over the backbone with the released one's
lengths, to compare that with.
What is in the index or in the JSON isn't computed again. A retrofit that was stopped goes on, and its report
then has the seconds of the last part alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.hub import base_weights
from fastlane_st.modeling.projection_fastlane import Context
from fastlane_st.retrofit.retrofit import retrofit
from fastlane_st.retrofit.source import read_late_interaction
from fastlane_st.retrofit.training import RouteTraining
from training.data import check_sources
from training.routes import drawn_pairs
from training.training_config import Source, TrainingConfig

from ..common.environment import command, environment
from ..common.results import write_results

CONTEXTS: dict[str, Context | None] = {"none": None, "both": "both"}
ENCODED_AT_ONCE = 1_024
QUERY_LENGTH, DOCUMENT_LENGTH, DIM = 48, 160, 384


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="names the sources")
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=2_000, help="drawn from each source")
    parser.add_argument("--steps", type=int, default=RouteTraining.steps)
    parser.add_argument(
        "--contexts",
        nargs="+",
        choices=CONTEXTS,
        default=list(CONTEXTS),
        help="mixed into the index",
    )
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sources = TrainingConfig.load(options.config, []).sources
    check_sources(sources)
    pairs = list(drawn_pairs(sources, options.pairs))
    found = read_results(options, len(pairs))
    options.scratch.mkdir(parents=True, exist_ok=True)
    model = options.scratch / "model"
    if not model.exists():
        plain_late_interaction(base_weights()).save(str(model))
    fresh = options.scratch / "untrained"
    if not fresh.exists():
        encoder = FastLaneEncoder.from_backbone(base_weights(), embedding_dim=DIM)
        encoder.save_pretrained(str(fresh))
    folder = options.scratch / "index"
    texts = documents_of(sources, pairs, options.documents)
    encode_rest(model, texts, folder, found["encoding"], lambda: write_results(options.out, found))
    for name in options.contexts:
        context = CONTEXTS[name]
        untrained = options.scratch / f"{name}-untrained"
        if not untrained.exists():
            read = read_late_interaction(model, context=context, query_num_routes=1)
            read.save_pretrained(untrained)
        if name not in found["retrofits"]:
            report = retrofit(
                model,
                options.scratch / name,
                pairs=pairs,
                index=FastLaneIndex.load(folder),
                context=context,
                training=RouteTraining(steps=options.steps),
                resume=True,
                show_progress_bar=True,
            )
            found["retrofits"][name] = {"environment": environment(), **report.to_dict()}
            write_results(options.out, found)
            print(f"{name}\n{report.render()}", flush=True)


def read_results(options: argparse.Namespace, num_pairs: int) -> dict[str, Any]:
    """The results so far; a SystemExit if they are of other settings."""
    settings = {"documents": options.documents, "pairs": num_pairs, "steps": options.steps}
    if not options.out.exists():
        return {"command": command(), "settings": settings, "encoding": {}, "retrofits": {}}
    found: dict[str, Any] = json.loads(options.out.read_text("utf-8"))
    if found["settings"] != settings:
        raise SystemExit(f"{options.out} holds {found['settings']}, asked for {settings}")
    return found


def plain_late_interaction(backbone: Path) -> MultiVectorEncoder:
    """A late-interaction model of Sentence Transformers: the backbone's states, of unit length."""
    modules = [
        Transformer(str(backbone), query_length=QUERY_LENGTH, document_length=DOCUMENT_LENGTH),
        MultiVectorMask(),
        Normalize(module_input_name="token_embeddings"),
    ]
    return MultiVectorEncoder(modules=modules, device="cpu")


def documents_of(
    sources: Sequence[Source], pairs: Sequence[tuple[str, str]], count: int
) -> list[str]:
    """So many different documents of the sources, those of the pairs first."""
    every = (positive for _, positive in drawn_pairs(sources, count))
    texts = dict.fromkeys([*(positive for _, positive in pairs), *every])
    return list(islice(texts, count))


def encode_rest(
    model: Path, texts: list[str], folder: Path, facts: dict[str, Any], save: Callable[[], None]
) -> None:
    """Encodes what an exact index of all vectors in float16 lacks, with the seconds of all parts."""
    facts.setdefault("parts", [])
    index = FastLaneIndex.load(folder) if folder.exists() else None
    done = 0 if index is None else len(index)
    if done == len(texts):
        return
    encoder = MultiVectorEncoder(str(model), device="cpu")
    part: dict[str, Any] = {"environment": environment(), "documents": 0, "seconds": 0.0}
    facts["parts"].append(part)
    for first in range(done, len(texts), ENCODED_AT_ONCE):
        chunk = texts[first : first + ENCODED_AT_ONCE]
        numbers = range(first, first + len(chunk))
        begun = time.perf_counter()
        vectors = list(encoder.encode_document(chunk, convert_to_numpy=True))
        part["seconds"] = round(part["seconds"] + time.perf_counter() - begun, 1)
        part["documents"] += len(chunk)
        if index is None:
            index = FastLaneIndex.from_embeddings(
                vectors, numbers, texts=chunk, kind="flat", storage="float16"
            )
        else:
            index.add(vectors, numbers, texts=chunk)
        index.save(folder)
        facts |= {"documents": numbers.stop, "vectors": index.num_vectors}
        save()
        print(f"{numbers.stop:,} of {len(texts):,} documents encoded", flush=True)


if __name__ == "__main__":
    main()
