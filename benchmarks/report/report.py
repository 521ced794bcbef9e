"""Writes `benchmarks/README.md` and the plots in `docs/` from the JSON of other commands.

python -m benchmarks.report.report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..common.environment import ROOT
from .plots import PLOTS
from .quality_sections import (
    BEFORE,
    VARIED_BEFORE,
    ablation_section,
    backends_quality_section,
    domain_section,
    long_documents_section,
    pooling_section,
    quality_section,
    retrofit_quality_section,
    retrofit_section,
    seed_section,
    selections_section,
    trained_section,
    variants_section,
)
from .search_sections import (
    brute_force_section,
    by_routes_section,
    engines_section,
    growth_section,
    recall_section,
    scale_section,
    soak_section,
    stores_section,
)
from .speed_sections import (
    backends_section,
    commands_section,
    serve_memory_section,
    serve_section,
    speed_section,
)
from .tables import markdown_table

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
REPORT = BENCHMARKS / "README.md"
DOCS = ROOT / "docs"
DRAWN = {
    "routes": ("routes", "quality.json"),
    "lengths": ("lengths", "quality.json"),
    "logits": ("logits", "diagnostics.json"),
    "entropy": ("entropy", "fastlane-minilm.log.jsonl"),
    "engines": ("engines", "engines.json"),
    "peers": ("engines", "peers.json"),
    "small": ("engines", "small.json"),
    "scale": ("scale", "scale.json"),
    "growth": ("growth", "growth.json"),
    "selections": ("selections", "selections.json"),
}
"""Each figure's plot and the file that it is drawn from."""
INTRODUCTION = """# Benchmarks

Written from the JSON in [`results/`](results), plots included. The last section names the command of each
file; with the collections in `data/` two commands run them all, about a day on two CPU cores, and write this
anew:

```bash
benchmarks/measure.sh runs/results
python -m benchmarks.report.report --results runs/results
```

The sections from "Another seed" on were measured with the weights as they were trained, before learned
salience, centrality and spread were taken out of them; those before it are of what is released. Intervals are
of 95 %, by paired bootstrap over queries."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder of JSON files")
    results: Path = parser.parse_args().results
    REPORT.write_text(render(read_results(results)), "utf-8")
    for figure, (plot, name) in DRAWN.items():
        if (results / name).exists():
            PLOTS[plot](results / name).savefig(DOCS / f"{figure}.svg", metadata={"Date": None})


def read_results(folder: Path) -> dict[str, Any]:
    """The content of each JSON file, by its name without the ending."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def render(found: dict[str, Any]) -> str:
    """The report in Markdown; sections without results are left out."""
    parts = [INTRODUCTION]
    for name, (title, section) in SECTIONS.items():
        if name in found:
            parts.append(f"## {title}\n\n{section(found[name])}")
    parts.append(f"## Commands\n\n{commands_table(found)}")
    return "\n\n".join(parts) + "\n"


def commands_table(found: dict[str, Any]) -> str:
    """The command that wrote each file."""
    rows = []
    for name, content in sorted(found.items()):
        written_by = [content.get("command"), *(one.get("command") for one in sets_of(content))]
        for command in dict.fromkeys(one for one in written_by if one):
            rows.append((f"[`{name}.json`](results/{name}.json)", f"`{command}`"))
    return "\n".join(markdown_table(("file", "by"), rows))


def sets_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The sets of a file, where each has a command of its own."""
    sets = content.get("sets")
    return list(sets.values()) if isinstance(sets, dict) else []


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "quality": ("Quality", quality_section),
    "trained": ("What training gave", trained_section),
    "retrofit": ("Routes for another late-interaction model", retrofit_section),
    "retrofit_50000": (
        "Routes for another late-interaction model, over 50,000 documents",
        retrofit_section,
    ),
    "retrofit_quality": ("What such routes keep on judged collections", retrofit_quality_section),
    "ablation": ("What each mechanism is worth", ablation_section),
    "speed": ("Encoding beside Sentence Transformers", speed_section),
    "backends": ("Backends", backends_section),
    "backends_quality": ("What the numbers of a backend cost", backends_quality_section),
    "commands": ("Commands from the shell", commands_section),
    "commands_nqgold": ("Building a larger index from the shell", commands_section),
    "serve": ("A server under load", serve_section),
    "serve_memory": ("A server's memory", serve_memory_section),
    "stores": ("Vector stores", stores_section),
    "seed": ("Another seed", seed_section),
    "variants": ("What was tried of the recipe since", variants_section),
    "variants_before": (
        "What was tried of the recipe",
        partial(variants_section, remark=VARIED_BEFORE),
    ),
    "ablation_before": (
        "What each mechanism was worth",
        partial(ablation_section, what=BEFORE),
    ),
    "engines": ("Search engines", engines_section),
    "peers": ("Search engines, with xtr-warp-rs", partial(engines_section, figure="peers")),
    "small": ("Every search engine, over few documents", partial(engines_section, figure="small")),
    "scale": ("Growth", scale_section),
    "growth": ("Documents, commits and opening", growth_section),
    "recall": ("Kinds of index", recall_section),
    "pooling": ("Fewer vectors a document", pooling_section),
    "long_documents": ("Long documents", long_documents_section),
    "by_routes": ("From one route to all views", by_routes_section),
    "selections": ("What the router chooses", selections_section),
    "brute_force": ("Comparisons and latency, as in the paper", brute_force_section),
    "medquad": ("A domain of one's own", domain_section),
    "adapt_cranfield": ("Adapted without labels to cranfield", domain_section),
    "soak": ("An index folder under faults", soak_section),
}

if __name__ == "__main__":
    main()
