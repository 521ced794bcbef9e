"""A local stand-in of `sentence-transformers/NanoBEIR-en`, in the layout that `hf download` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.conftest import DOCUMENTS, QUERIES

PARTS = ("corpus", "queries", "qrels")
RELEVANT = {"q0": ["d0", "d1"], "q1": ["d1"], "q2": ["d2"]}  # q3 isn't judged


def write_nano_beir(
    folder: Path, relevant: Mapping[str, Mapping[str, Sequence[str]]], texts: Sequence[str | None]
) -> Path:
    """Writes data sets, by their split such as `NanoNQ`, each over the same documents and `QUERIES`."""
    card = ["---", "configs:"]
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        card += [f"- config_name: {part}", "  data_files:"]
        for split, judged in relevant.items():
            card += [f"  - split: {split}", f"    path: {part}/{split}-*"]
            rows = {
                "corpus": [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)],
                "queries": [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)],
                "qrels": [
                    {"query-id": query, "corpus-id": id} for query in judged for id in judged[query]
                ],
            }[part]
            path = folder / part / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def two_data_sets(folder: Path) -> Path:
    """NQ and MS MARCO; in MS MARCO each query's one relevant document is d5."""
    others = {query: ["d5"] for query in RELEVANT}
    return write_nano_beir(folder, {"NanoNQ": RELEVANT, "NanoMSMARCO": others}, DOCUMENTS)
