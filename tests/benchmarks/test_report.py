"""The committed report has the numbers of the committed JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import Any, get_args

import pytest

from benchmarks.report import report, tables
from fastlane_st.index.vectors.settings import EXPECTED_RECALL, Kind
from tests.support.benchmarks import BENCHMARKS

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?%?")
Table = list[list[str]]
Numbers = list[list[float]]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return report.read_results(report.RESULTS)


@pytest.fixture(scope="module")
def committed() -> str:
    return report.REPORT.read_text("utf-8")


def sections_of(text: str) -> dict[str, str]:
    """The parts of a report by their titles."""
    titles = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(titles[1::2], titles[2::2], strict=True))


def tables_of(text: str) -> list[Table]:
    """The cells of each table's rows, without headings and row labels."""
    found: list[Table] = []
    is_inside = False
    for line in text.splitlines():
        if line.startswith("| --- "):
            found.append([])
            is_inside = True
        elif not line.startswith("|"):
            is_inside = False
        elif is_inside:
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")][1:])
    return found


def agree(cells: Sequence[str], expected: Sequence[float]) -> bool:
    """Whether the numbers in some cells are those expected, rounded as they stand there."""
    shown = NUMBER.findall(" | ".join(cells))
    if len(shown) != len(expected):
        return False
    for one, value in zip(shown, expected, strict=True):
        digits = one.strip("%+").replace(",", "")
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        if abs(float(digits) - value * (100 if one.endswith("%") else 1)) > half * (1 + 1e-9):
            return False
    return True


def interval(found: dict[str, float]) -> list[float]:
    return [found[name] for name in ("mean", "low", "high")]


def quality_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    over, sets = found["over_sets"], list(found["sets"].values())
    yield [
        [
            *(one["means"][setting]["ndcg@10"] for one in sets),
            over["ndcg@10"][setting],
            over["ratio_to_full"][setting],
        ]
        for setting in tables.ROWS
        if setting in over["ndcg@10"]
    ]
    yield [[*interval(one), one["p_value"]] for one in over["differences"].values()]
    rows = []
    for one in sets:
        bins = one["by_document_length"]
        route, full = (bins["ndcg@10"][setting] for setting in ("router_1", "full"))
        ends = [[route[end] / full[end], bins["mean_views"][end]] for end in (0, -1)]
        rows.append([one["ratio_to_full"]["router_1"], *chain(*ends)])
    yield rows


def seed_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [one["released"], one["other"], *interval(one["difference"])]
        for one in found["over_sets"].values()
    ]


def variants_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            *one["ndcg@10"].values(),
            *(one["ratio_to_full"][setting] for setting in ("router_2", "router_8")),
            *interval(one["gain"]["router_1"]),
        ]
        for one in found["sets"].values()
    ]


def scale_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            one["vectors"],
            one["bytes"] / 1e9,
            one["build_seconds"] / 60,
            one["build_peak_bytes"] / 2**30,
            one["search_peak_bytes"] / 2**30,
            *chain(*([search["p50_ms"], search["overlap"]] for search in one["searches"])),
        ]
        for one in found["sizes"].values()
    ]


def recall_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [list(shares.values()) for shares in found["recall"].values()]


def pooling_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            float(setting.rpartition("_")[2]),
            one["routed"],
            one["pooled"],
            *interval(one["difference"]),
        ]
        for setting, one in found["over_sets"].items()
        if "routed" in one
    ]


def long_documents_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            one["documents"],
            one["long"] / one["documents"],
            *(one[f"vectors_per_document_{way}"] for way in ("cut", "window")),
            measured["cut"],
            measured["window"],
            *interval(measured["difference"]),
        ]
        for one in found["sets"].values()
        for measured in one["ndcg@10"].values()
    ]


def by_routes_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [one["views"], one["ndcg@10"], one["p50_ms"], one["p95_ms"]]
        for one in found["over_sets"].values()
    ]


def selections_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            one["queries"],
            *interval(one["rank_correlation"]),
            one["as_good_as_the_oracle"],
            one["as_good_by_chance"],
        ]
        for one in found["sets"].values()
    ]


def domain_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [one["before"], one["after"], *interval(one["difference"])]
        for measured in found["sets"].values()
        for one in measured["ndcg@10"].values()
    ]


def spread(found: dict[str, float]) -> list[float]:
    return [found[name] for name in ("median", "min", "max")]


def retrofit_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    runs = found["retrofits"].values()
    yield [
        [
            *map(int, re.findall(r"\d+", ranking)),
            *(run[when][ranking]["overlap"] for when in ("before", "after")),
            *(run[when][ranking]["reciprocal_rank"] for when in ("before", "after")),
        ]
        for run in runs
        for ranking in run["after"]
    ]
    yield [
        [
            *(seconds / 60 for seconds in run["seconds"].values()),
            sum(run["seconds"].values()) / 60,
            run["peak_memory"] / 2**30,
        ]
        for run in runs
    ]


def retrofit_quality_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    maxsim = found["sets"]["none"]["ndcg@10"]["full"]
    settings = ("router_1", "router_2", "router_4", "router_8", "full")
    yield [
        [
            part
            for name in settings
            for part in (one["ndcg@10"][name], one["ndcg@10"][name] / maxsim)
        ]
        for one in found["sets"].values()
    ]


def backends_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        [
            one["documents_per_second"],
            *spread(one["times_faster"]["documents"]),
            one["query_ms"],
            *spread(one["times_faster"]["query"]),
        ]
        for one in found["backends"].values()
    ]


def gains_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    settings = ("full", "router_1", "router_2", "router_4", "router_8")
    yield [
        [
            *(one["ndcg@10"][setting] for setting in settings),
            *interval(one["gain"]["router_1"]),
            *interval(one["gain"]["full"]),
        ]
        for one in found["sets"].values()
    ]


def commands_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    ratios = ("index_over_encoding", "index_over_encoding_once_started", "demo_over_before")
    yield [
        [
            *one["seconds"].values(),
            *(number for name in ratios if name in one for number in spread(one[name])),
        ]
        for one in found["backends"].values()
    ]


def speed_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    yield [
        spread(one["ratio"])
        for name, one in found.items()
        if name.startswith("encode_") and "ratio" in one
    ]


def serve_tables(found: dict[str, Any]) -> Iterator[Numbers]:
    rounds = found["rounds"]
    yield [
        [
            float(clients),
            *(
                median(one["server"][name][clients][value] for one in rounds)
                for value in ("per_second", "p50_ms", "p95_ms", "p99_ms")
            ),
        ]
        for name, by_clients in rounds[0]["server"].items()
        for clients in by_clients
    ]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("quality", quality_tables),
        ("seed", seed_tables),
        ("variants", variants_tables),
        ("variants_before", variants_tables),
        ("scale", scale_tables),
        ("recall", recall_tables),
        ("pooling", pooling_tables),
        ("long_documents", long_documents_tables),
        ("by_routes", by_routes_tables),
        ("selections", selections_tables),
        ("medquad", domain_tables),
        ("adapt_cranfield", domain_tables),
        ("ablation", gains_tables),
        ("ablation_before", gains_tables),
        ("backends_quality", gains_tables),
        ("trained", gains_tables),
        ("commands", commands_tables),
        ("commands_nqgold", commands_tables),
        ("retrofit", retrofit_tables),
        ("retrofit_50000", retrofit_tables),
        ("retrofit_quality", retrofit_quality_tables),
        ("backends", backends_tables),
        ("speed", speed_tables),
        ("serve", serve_tables),
    ],
)
def test_the_numbers_of_a_table_are_those_of_its_json(
    name: str, numbers: Any, committed: str, results: dict[str, Any]
) -> None:
    title, _ = report.SECTIONS[name]
    found, expected = tables_of(sections_of(committed)[title]), list(numbers(results[name]))
    assert len(found) == len(expected)
    for table, wanted in zip(found, expected, strict=True):
        assert len(table) == len(wanted) > 0
        for cells, values in zip(table, wanted, strict=True):
            # Of two label columns the second may be a setting's name, which has no number of its own.
            assert agree([cell for cell in cells if "_" not in cell], values), (cells, values)


@pytest.mark.parametrize("name", ["engines", "peers", "small"])
def test_a_row_of_engines_is_a_setting_that_was_measured(
    name: str, committed: str, results: dict[str, Any]
) -> None:
    title, _ = report.SECTIONS[name]
    [table] = tables_of(sections_of(committed)[title])
    candidates = [
        [
            setting["ndcg@10"],
            setting["overlap_maxsim"],
            setting["queries_per_second_median"],
            *(
                [setting["queries_per_second_callers"], setting["callers"]]
                if "callers" in setting
                else []
            ),
            *(setting[f"p{p}_ms"] for p in (50, 95, 99)),
            run["bytes_per_document"],
            run["build_seconds"],
            run["search_peak_bytes"] / 2**30,
        ]
        for run in results[name]["runs"]
        for setting in run["settings"]
    ]
    assert len(table) >= len(results[name]["runs"])
    for cells in table:
        assert any(agree(cells, values) for values in candidates), cells


def test_a_row_of_stores_is_a_setting_that_was_measured(
    committed: str, results: dict[str, Any]
) -> None:
    title, _ = report.SECTIONS["stores"]
    [table] = tables_of(sections_of(committed)[title])
    candidates = [
        [one["overlap"], one["ms_median"], one["ms_p95"], *filter(None, [one.get("ratio")])]
        for one in results["stores"]["settings"]
    ]
    assert len(table) > 3
    for _, *cells in table:  # without the setting
        assert any(agree(cells, values) for values in candidates), cells


def test_a_number_that_differs_in_its_last_digit_is_found() -> None:
    assert agree(
        ["0.7273", "+0.0057", "97.0%", "1.7 (0.951)"], [0.72731, 0.00567, 0.97049, 1.65, 0.951]
    )
    assert agree(["1,190", "-0.01 to 0.20"], [1190, -0.009, 0.2])
    for cells, values in ((["0.7274"], [0.72731]), (["97.1%"], [0.97049]), (["-0.01"], [0.01])):
        assert not agree(cells, values)
    assert not agree(["0.5"], [0.5, 0.5])


def test_the_report_renders_to_the_numbers_that_are_committed(
    committed: str, results: dict[str, Any]
) -> None:
    rendered = sections_of(report.render(results))
    assert set(report.SECTIONS) <= set(results)
    for title, text in sections_of(committed).items():
        assert NUMBER.findall(text) == NUMBER.findall(rendered[title]), title


def test_a_section_without_results_is_left_out(results: dict[str, Any]) -> None:
    text = report.render({"soak": results["soak"]})
    assert [title for title, _ in report.SECTIONS.values() if f"## {title}\n" in text] == [
        report.SECTIONS["soak"][0]
    ]
    assert results["soak"]["command"] in text


def test_every_plot_has_its_source_and_every_link_leads_somewhere(committed: str) -> None:
    for _, name in report.DRAWN.values():
        assert (report.RESULTS / name).exists()
    for link in ("](../docs/", "](results/"):
        for part in committed.split(link)[1:]:
            path = link[2:] + part.split(")")[0]
            assert (BENCHMARKS / path).exists(), path


def test_what_an_index_is_said_to_find_was_measured(results: dict[str, Any]) -> None:
    measured = results["recall"]["recall"]
    assert {
        kind: {storage: round(share, 2) for storage, share in shares.items()}
        for kind, shares in measured.items()
        if kind in get_args(Kind)  # hnsw was measured, and is gone since
    } == EXPECTED_RECALL
