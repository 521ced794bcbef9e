"""What a corpus beyond one machine needs: the arithmetic of docs/scale.md, from what `search.scale` measured.

    python -m benchmarks.report.billion --documents 1000000000

Everything grows in step with the number of documents, but for what a search takes: a part of the index is as
large as the largest that was measured, and all parts are searched side by side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from fastlane_st.index.vectors.settings import Storage, VectorSettings

from .tables import markdown_table

RESULTS = Path(__file__).parents[1] / "results" / "scale.json"
CORES = 2  # of the machine that measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000_000)
    parser.add_argument("--price", type=float, default=0.03, help="of a core for an hour")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = json.loads(options.results.read_text("utf-8"))
    print(
        "\n".join(
            [
                *needs(found, options.documents, options.price),
                "",
                *bytes_by_storage(found, options.documents),
            ]
        )
    )


def needs(found: dict[str, Any], documents: int, price: float) -> list[str]:
    """Rows of vectors, core hours and parts."""
    largest = max(found["sizes"], key=int)
    one = found["sizes"][largest]
    times = documents / int(largest)
    rate = found["collection"]["documents_per_second"]
    encoding = documents / rate / 3600 * CORES
    building = one["build_seconds"] * times / 3600 * CORES
    search = next(each for each in one["searches"] if each["effort"] == 1.0)
    rows = [
        (
            "vectors",
            f"{one['vectors'] * times / 1e9:.1f} billion",
            f"{one['vectors'] / int(largest):.1f} a document, a quarter of its tokens",
        ),
        (
            "encoding",
            f"{encoding:,.0f} core hours",
            f"{rate / CORES:.0f} documents a second and core",
        ),
        (
            "building",
            f"{building:,.0f} core hours",
            f"{one['build_seconds'] / 60:.0f} minutes for {int(largest):,} on {CORES} cores",
        ),
        (
            "price of both",
            f"{price * (encoding + building):,.0f}",
            f"{price:g} a core hour; put in your own",
        ),
        ("parts", f"{times:,.0f}", f"of {int(largest):,} documents each"),
        (
            "memory of a part's search",
            f"{one['search_peak_bytes'] / 2**30:.1f} GiB",
            "vectors stay in their files",
        ),
        (
            "search of a part",
            f"{search['p50_ms']:.0f} ms",
            f"p50 at effort 1; {search['overlap']:.1%} of the ten best",
        ),
    ]
    return markdown_table(("what", f"{documents:,} documents", "measured"), rows)


def bytes_by_storage(found: dict[str, Any], documents: int) -> list[str]:
    """Rows of bytes, by what a number is stored as."""
    largest = max(found["sizes"], key=int)
    vectors = round(found["sizes"][largest]["vectors"] * documents / int(largest))
    rows = []
    for storage in get_args(Storage):
        settings = VectorSettings("ivf", storage)
        size = settings.num_bytes(vectors, 384)
        rows.append((f"`{storage}`", f"{size / 1e12:.1f}", f"{settings.expected_recall:.2f}"))
    return markdown_table(("storage, 384 dimensions", "TB", "expected recall@10"), rows)


if __name__ == "__main__":
    main()
