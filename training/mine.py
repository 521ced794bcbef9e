"""Mines hard negatives with the model itself, through its index.

    python -m training.mine --model fastlane-minilm \\
        --source data/train/squadnqg.jsonl.gz --out data/mined/squadnqg.jsonl.gz

Each query searches the distinct positives of its own source, so that negatives are of the same kind
as positives. The result holds rows `query`, `positive`, `negative_1` … in the order of the input, ready
for training. Four rules drop retrieved documents; the summary counts them by these names:

    positive    equals a positive of the same query, anywhere in the source
    overlap     contains such a positive, or is part of one
    score       scores too close to the row's positive (see `negatives.score_limit`)
    skipped     is one of the `--skip` best of the rest

The first two fold case and white space. A row that keeps too few documents gets others, drawn at random
from the source under the first two rules. A row whose positive scores below all that its query
retrieves gets only such documents.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.corpus import read_corpus

from .command_line import exit_status
from .data import draw_capped, read_rows, rename, texts_of
from .negatives import (
    MiningConfig,
    Row,
    choose_negatives,
    distinct,
    draw_negatives,
    normalise,
)
from .training_config import Source

OPTIONS = {
    "num_negatives": "hard negatives of each row",
    "depth": "documents that each query retrieves",
    "skip": "leave out this many of the best",
    "num_routes": "token views of a query, or 'all'",
    "document_routes": "token views of a document: a number, a fraction, or 'all'",
    "max_relative_score": "drop documents above this fraction of the positive's score",
    "batch_size": "texts encoded at a time",
    "backend": "what encodes texts: torch, onnx or auto",
    "dtype": "numbers it computes in: float32, bfloat16, int8 or auto",
    "seed": "seed of --cap and of random documents",
}
RULES = ("positive", "overlap", "score", "skipped")


def main(arguments: Sequence[str] | None = None) -> int:
    """Mines, prints the summary as a line of JSON, and returns the exit status."""
    given = vars(build_parser().parse_args(arguments))
    how_to_go_on = f"{given['out']} is as it was before; run the command again"
    return exit_status("mine", lambda: run(given), how_to_go_on)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser; each field of `MiningConfig` is an option."""
    parser = argparse.ArgumentParser(
        prog="python -m training.mine", description="Mine hard negatives with the model itself."
    )
    parser.add_argument("--model", required=True, help="checkpoint folder, or fastlane-minilm")
    pairs = parser.add_mutually_exclusive_group(required=True)
    pairs.add_argument("--source", dest="path", metavar="FILE", help="JSON Lines; see data.py")
    pairs.add_argument("--dataset", metavar="NAME", help="instead, for datasets.load_dataset")
    parser.add_argument("--out", metavar="FILE", required=True, type=Path, help="plain or .gz")
    parser.add_argument("--overwrite", action="store_true", help="replace the file there")
    parser.add_argument("--corpus", metavar="FILE", type=Path, help="more documents, {title, text}")
    parser.add_argument("--cap", type=int, metavar="N", help="only N rows, drawn as for training")
    parser.add_argument("--stats", metavar="FILE", type=Path, help="also write the summary there")
    for name, text in OPTIONS.items():
        default = getattr(MiningConfig, name)
        kind = parse_num_routes if name.endswith("routes") else type(default)
        text += f" (default: {default})"
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=text)
    return parser


def parse_num_routes(text: str) -> int | float | None:
    """Parses "all" as None, and other texts as a number or, with a point, a fraction."""
    if text == "all":
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or 'all', got {text!r}") from None


def run(given: Mapping[str, Any]) -> None:
    """Mines by the parsed options, prints the summary, and writes it if `stats` names a file."""
    source = Source(**{name: given[name] for name in ("path", "dataset", "cap")})
    config = MiningConfig(**{name: given[name] for name in OPTIONS})
    rest = {name: given[name] for name in ("model", "out", "corpus", "overwrite")}
    if given["stats"] is not None:
        given["stats"].parent.mkdir(parents=True, exist_ok=True)  # as for `out`
    summary = mine(source=source, config=config, **rest)
    print(json.dumps(summary))
    if given["stats"] is not None:
        given["stats"].write_text(json.dumps(summary, indent=2) + "\n", "utf-8")


def mine(
    model: str,
    source: Source,
    out: Path,
    config: MiningConfig,
    corpus: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the rows of `source` with hard negatives to `out`, which appears once it is complete.

    A cap leaves out rows, but neither documents nor known positives. Queries retrieve the documents
    of the `corpus` too (without empty ones), but random documents never come from it.

    Returns:
        The summary: the settings, how many rows found their positive, how many documents each rule
        dropped, and how many rows were filled with how many random documents.

    Raises:
        ValueError: A row is broken or has hard negatives already, there are too few documents, or
            `out` exists. All of this is checked before anything is encoded.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; name another file, or pass --overwrite")
    rows = read_pairs(source)
    drawable = distinct(row.positive for row in rows)
    rows = draw_capped(rows, source.cap, config.seed)
    check_enough(rows, drawable, config)
    others = () if corpus is None else (document.content for document in read_corpus(corpus))
    documents = distinct([*drawable, *filter(None, others)])

    counts: Counter[str] = Counter()
    with atomic_writer(out) as lines:
        encoder = FastLaneEncoder(model, backend=config.backend, dtype=config.dtype)
        index = encoder.build_index(
            documents,
            num_routes=config.document_routes,
            batch_size=config.batch_size,
            show_progress_bar=True,
        )
        mined = mine_rows(rows, drawable, index, encoder, config, counts)
        for row in tqdm(mined, total=len(rows), desc="Mining", unit="row"):
            lines.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return {
        **{"model": model, "source": source.label, **asdict(config)},
        **{"rows": len(rows), "documents": len(documents)},
        "positives_found": counts["positives_found"],
        "dropped": {rule: counts[rule] for rule in RULES},
        **{name: counts[name] for name in ("filled_rows", "filled_documents")},
    }


def mine_rows(
    rows: Sequence[Row],
    drawable: Sequence[str],
    index: FastLaneIndex,
    encoder: FastLaneEncoder,
    config: MiningConfig,
    counts: Counter[str],
) -> Iterator[dict[str, str]]:
    """Yields rows for training, retrieved negatives before random ones, and updates `counts`."""
    for start in range(0, len(rows), config.batch_size):
        batch = rows[start : start + config.batch_size]
        for row, ranked, score in search(batch, index, encoder, config):
            negatives, dropped = choose_negatives(ranked, row.positives, score, config)
            missing = config.num_negatives - len(negatives)
            found = {text for text, _ in ranked}
            negatives += draw_negatives(row, drawable, missing, config.seed, negatives, found)
            counts.update(dropped, filled_rows=missing > 0, filled_documents=missing)
            counts["positives_found"] += normalise(row.positive) in map(normalise, found)
            numbered = {f"negative_{number}": text for number, text in enumerate(negatives, 1)}
            yield {"query": row.query, "positive": row.positive, **numbered}


def read_pairs(source: Source) -> list[Row]:
    """Reads all rows of a source and ignores its cap; a row with hard negatives is a ValueError."""
    rows: list[Row] = []
    positives: dict[str, set[str]] = defaultdict(set)
    for origin, theirs in read_rows(source):
        try:
            row = rename(theirs, source.columns)
            query, positive, *negatives = texts_of(row)
            if negatives:
                held = next(each for each in row if each.startswith(("negative", "documents")))
                raise ValueError(f"{held!r} holds hard negatives already; mine for pairs alone")
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
        known = positives[normalise(query)]
        known.add(normalise(positive))
        rows.append(Row(origin, query, positive, known))
    if not rows:
        raise ValueError(f"{source.path or source.dataset} holds no rows")
    return rows


def check_enough(rows: Sequence[Row], documents: Sequence[str], config: MiningConfig) -> None:
    """Raises a ValueError unless random documents alone could fill each row."""
    wanted = config.num_negatives
    for row in rows:
        possible = len(draw_negatives(row, documents, wanted, config.seed))
        if possible < wanted:
            raise ValueError(
                f"{row.origin}: of {len(documents)} distinct documents in the source, {possible} "
                f"can be negatives of this query, expected num_negatives={wanted} or more"
            )


def search(
    rows: Sequence[Row], index: FastLaneIndex, encoder: FastLaneEncoder, config: MiningConfig
) -> Iterator[tuple[Row, list[tuple[str, float]], float]]:
    """Yields each row with the documents its query retrieves, best first, and its positive's score.

    If the query doesn't retrieve the positive, the encoder computes that score from the same routes.
    """
    found = index.search(
        [row.query for row in rows],
        top_k=config.depth,
        num_routes=config.num_routes,
        batch_size=config.batch_size,
    )
    ranked = [[(str(hit.text), hit.score) for hit in hits] for hits in found]
    scores = [dict(each).get(row.positive) for row, each in zip(rows, ranked, strict=True)]
    unfound = [row for row, score in zip(rows, scores, strict=True) if score is None]
    computed = iter(score_pairs(unfound, encoder, config) if unfound else ())
    for row, each, score in zip(rows, ranked, scores, strict=True):
        yield row, each, next(computed) if score is None else score


def score_pairs(rows: Sequence[Row], encoder: FastLaneEncoder, config: MiningConfig) -> list[float]:
    """Computes the similarity of each query with its own positive."""
    queries = encoder.encode_query(
        [row.query for row in rows], num_routes=config.num_routes, show_progress_bar=False
    )
    documents = encoder.encode_document(
        [row.positive for row in rows], num_routes=config.document_routes, show_progress_bar=False
    )
    scores: list[float] = encoder.similarity_pairwise(queries, documents).tolist()
    return scores


@contextmanager
def atomic_writer(path: Path) -> Iterator[BufferedIOBase]:
    """Opens a stream, gzipped for .gz, that becomes the file `path` if the block raises nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as plain:
            # The header holds neither name nor time, so that the same rows make the same bytes.
            is_packed = path.suffix == ".gz"
            packed = gzip.GzipFile("", "wb", fileobj=plain, mtime=0) if is_packed else None
            with packed or nullcontext(plain) as lines:
                yield lines
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
