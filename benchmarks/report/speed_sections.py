"""Sections of the report on encoding and serving: a function per JSON file."""

from __future__ import annotations

from statistics import median_high
from typing import Any

from .tables import markdown_table, processor

CALLS = {
    "encode_documents": "documents, all views, against Sentence Transformers",
    "encode_documents_quarter": "documents, pooled to a quarter, against Sentence Transformers",
    "encode_queries": "queries in batches, one route, against Sentence Transformers",
    "encode_one_query": "single queries, one route, against Sentence Transformers",
    "encode_queries_with_route_layers": "queries in batches, with route layers against without",
    "encode_one_query_with_route_layers": "single queries, with route layers against without",
}
BACKENDS = {"st-onnx": "Sentence Transformers over a graph of the backbone alone"}


def speed_section(found: dict[str, Any]) -> str:
    """Encoding against plain late interaction over the same backbone."""
    rows = ((label, ratio(found[call]["ratio"])) for call, label in CALLS.items() if call in found)
    return "\n".join(
        [
            "How many times as fast, medians of calls in turns (and the slowest and fastest), on "
            f"{processor(found)}. Sentence Transformers has its own multi-vector model over the same "
            f"backbone, with a projection and no router; route layers are {found['route_layers']}.",
            "",
            *markdown_table(("encoding", "times as fast"), rows),
        ]
    )


def backends_section(found: dict[str, Any]) -> str:
    """Speed of each backend, for documents and for single queries."""
    rows = (
        (
            BACKENDS.get(name, name.replace(":", ", ")),
            f"{one['documents_per_second']:.1f}",
            ratio(one["times_faster"]["documents"]),
            f"{one['query_ms']:.1f}",
            ratio(one["times_faster"]["query"]),
        )
        for name, one in found["backends"].items()
    )
    has = ", ".join(found["instructions"]) or "none of those that int8 and bfloat16 need"
    return "\n".join(
        [
            f"{found['documents']:,} documents of {found['characters_per_document']:.0f} characters on "
            f"average, in batches of {found['batch_size']}, and single queries; medians of "
            f"{found['rounds']} rounds, on {processor(found)}. Vector instructions it has: {has}.",
            "",
            *markdown_table(
                ("backend", "documents/s", "times torch", "ms a query", "times torch"), rows
            ),
        ]
    )


def commands_section(found: dict[str, Any]) -> str:
    """`fastlane index`, and `fastlane demo` where it was run, by backend."""
    before = found["before"]
    columns = {
        "encode": "encoding alone, s",
        "index": "fastlane index, s",
        "start": "of one document, s",
    }
    ratios = {"index_over_encoding": "rate", "index_over_encoding_once_started": "once started"}
    corpus, demo = found.get("corpus", "Python's documentation"), ""
    if before is not None:
        columns["demo"], ratios["demo_over_before"] = "fastlane demo, s", "demo, times as fast"
        demo = (
            " `fastlane demo` in an empty cache also writes the checkpoint, and a graph where it runs one; "
            f"it took {before['demo']:.0f} s before batches were put together by tokens."
        )
    rows = (
        (
            name.replace(":", ", "),
            *(f"{one['seconds'][call]:.0f}" for call in columns),
            *(ratio(one[each]) for each in ratios),
        )
        for name, one in found["backends"].items()
    )
    return "\n".join(
        [
            f"{found['documents']:,} passages of {corpus}, cut at the model's length: encoded alone by a "
            "loaded model, and by `fastlane index`. Its rate is a share of encoding's, with the seconds that "
            f"starting takes and without.{demo} Medians of {found['rounds']} rounds, on {processor(found)}.",
            "",
            *markdown_table(("backend", *columns.values(), *ratios.values()), rows),
        ]
    )


def serve_section(found: dict[str, Any]) -> str:
    """Throughput and latency of a server, by number of clients, with batches and without."""
    rounds, ratios = found["rounds"], found["ratios"]
    rows = []
    for name, by_clients in rounds[0]["server"].items():
        for clients in by_clients:
            each = [one["server"][name][clients] for one in rounds]
            rows.append(
                (
                    name,
                    clients,
                    f"{median_high([one['per_second'] for one in each]):.0f}",
                    *(
                        f"{median_high([one[f'{quantile}_ms'] for one in each]):.0f}"
                        for quantile in ("p50", "p95", "p99")
                    ),
                )
            )
    library = median_high([one["pairs"]["library_ms"] for one in rounds])
    added = ratios["ms_over_library"]
    gains = ", ".join(
        f"{one['median']:.2f} at {clients}"
        for clients, one in ratios["throughput_of_batches"].items()
    )
    return "\n".join(
        [
            f"One route over {found['documents']:,} passages, all of their views, on {processor(found)}. "
            "Clients share the processor with the server. Medians of "
            f"{len(rounds)} rounds.",
            "",
            *markdown_table(("server", "clients", "queries/s", "p50 ms", "p95 ms", "p99 ms"), rows),
            "",
            f"The library's own call takes {library:.1f} ms. Where it and the server answer the same query "
            f"in turn, the server takes {added['median']:.1f} ms more ({added['least']:.1f} to "
            f"{added['greatest']:.1f}). Batches answer so "
            f"many times as many queries a second as no batches: {gains}.",
        ]
    )


def serve_memory_section(found: dict[str, Any]) -> str:
    """Memory of a server over minutes of searches and changes."""
    memory, done = found["resident_bytes"], found["done"]
    calls = ", ".join(f"{number:,} times {name}" for name, number in done.items())
    return (
        f"{found['minutes']:g} minutes of {calls}: {memory[0] / 2**20:.0f} MiB at first, "
        f"{max(memory) / 2**20:.0f} at most, {memory[-1] / 2**20:.0f} at last, "
        f"{found['growth']:+.1%} on what it was after the first fifth."
    )


def ratio(found: dict[str, float]) -> str:
    """A median, and the least and greatest."""
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"
