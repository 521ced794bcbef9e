"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, quiet
from .index import CHECKPOINT, add_commands, add_document_routes, add_folder, load

if TYPE_CHECKING:
    from ..diagnostics.diagnose import RouterDiagnostics
    from ..encoder import FastLaneEncoder
    from ..evaluation.evaluate import Evaluation
    from ..modeling.search_fastlane import FastLaneIndex


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit status, 1 for a problem that the message names."""
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"fastlane: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fastlane` and its commands."""
    parser = argparse.ArgumentParser(prog="fastlane", description="Routed late-interaction search.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write the model of this package as a Hub folder")
    export.add_argument("directory", metavar="DIR", help="a new or empty folder")
    export.set_defaults(command=run_export)

    add_commands(commands, parse_routes)

    search = commands.add_parser("search", help="search an index")
    add_folder(search)
    search.add_argument("query", metavar="QUERY")
    search.add_argument("--model", metavar="CHECKPOINT", help="default: the one that indexed")
    search.add_argument(
        "--where", type=parse_filter, metavar="JSON", help="""filter, as {"year": {"$gte": 2020}}"""
    )
    search.add_argument(
        "--rerank", type=int, metavar="N", help="rank the best N again by all tokens of the query"
    )
    add_search_options(search)
    search.set_defaults(command=run_search)

    evaluate = commands.add_parser("evaluate", help="quality on judged data, by number of routes")
    add_judged_options(evaluate)
    evaluate.add_argument(
        "--routes",
        type=parse_route_list,
        metavar="N,N",
        default="1,2,4,8,all",
        help="token views of the queries: numbers, 'auto', 'all'; default: %(default)s",
    )
    add_document_routes(evaluate, parse_routes)
    evaluate.add_argument(
        "--index", metavar="DIR", help="search an index of the corpus; default: all documents"
    )
    evaluate.add_argument(
        "--rerank", type=int, metavar="N", help="with --index: rank the best N again by all views"
    )
    evaluate.add_argument("--runs", type=Path, metavar="DIR", help="write TREC run files there")
    evaluate.set_defaults(command=run_evaluate)

    diagnose = commands.add_parser("diagnose", help="what a router chooses, and how well")
    add_judged_options(diagnose)
    diagnose.set_defaults(command=run_diagnose)

    demo = commands.add_parser("demo", help="ask Python's own documentation on this machine")
    demo.add_argument("question", metavar="QUESTION", nargs="?", help="default: a few of ours")
    add_search_options(demo, top_k=3)
    demo.set_defaults(command=run_demo)
    return parser


def add_judged_options(parser: argparse.ArgumentParser) -> None:
    """Adds what every measurement of a checkpoint on judged data takes."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or fastlane-minilm")
    parser.add_argument("data", metavar="DATA", help="BEIR folder: corpus, queries, qrels")
    parser.add_argument("--split", metavar="NAME", help="default: the only one, or test")
    parser.add_argument("--limit-queries", type=int, metavar="N", help="only the first N")
    parser.add_argument(
        "--limit-documents", type=int, metavar="N", help="the judged ones, and others up to N"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", default=32)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")


def judged_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those of `add_judged_options` as the library's functions call them."""
    names = ("split", "limit_queries", "limit_documents", "batch_size")
    return {name: getattr(options, name) for name in names} | {"show_progress": True}


def write_json(options: argparse.Namespace, found: Evaluation | RouterDiagnostics) -> None:
    """Writes what was measured where `--json` says."""
    if options.json is not None:
        options.json.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")


def add_search_options(parser: argparse.ArgumentParser, top_k: int = 10) -> None:
    """Adds the options that every search takes."""
    parser.add_argument("--top-k", type=int, metavar="N", default=top_k, help="hits to show")
    parser.add_argument(
        "--routes",
        type=parse_routes,
        metavar="N",
        default="default",
        help="token views of the query: a number, 'auto' or 'all'; default: the checkpoint's",
    )


def parse_routes(text: str) -> int | float | str | None:
    """A number or a fraction, None for 'all', 'auto' or 'default'; if it can be, the library says."""
    if text in ("default", "auto"):
        return text
    if text == "all":
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number, 'auto' or 'all', got {text!r}"
        ) from None


def parse_route_list(text: str) -> list[int | float | str | None]:
    """As `parse_routes`, several with commas."""
    return [parse_routes(one.strip()) for one in text.split(",")]


def parse_filter(text: str) -> Any:
    """JSON; whether it is a filter, the library says."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r}: {error}") from None


def run_export(options: argparse.Namespace) -> None:
    """`fastlane export`."""
    quiet.quiet_transformers()
    from ..hub import export

    export(options.directory)
    print(f"wrote {options.directory}")


def run_search(options: argparse.Namespace) -> None:
    """`fastlane search`."""
    index = load(options)
    encoder = quiet.load_encoder(options.model or str(index.metadata.get(CHECKPOINT)))
    index.encoder = encoder
    _answer(index, encoder, [options.query], options, where=options.where, rerank=options.rerank)


def run_evaluate(options: argparse.Namespace) -> None:
    """`fastlane evaluate`."""
    quiet.quiet_transformers()
    from ..evaluation.evaluate import run_evaluate

    found = run_evaluate(
        options.checkpoint,
        options.data,
        routes=options.routes,
        document_routes=options.document_routes,
        index=options.index,
        rerank=options.rerank,
        **judged_options(options),
    )
    print(found.render())
    write_json(options, found)
    if options.runs is not None:
        found.write_runs(options.runs)


def run_diagnose(options: argparse.Namespace) -> None:
    """`fastlane diagnose`."""
    quiet.quiet_transformers()
    from ..diagnostics.diagnose import run_diagnose

    found = run_diagnose(options.checkpoint, options.data, **judged_options(options))
    print(found.render())
    write_json(options, found)


def run_demo(options: argparse.Namespace) -> None:
    """`fastlane demo`."""
    from ..demo.index import demo_index
    from ..demo.python_docs import DEMO_QUESTIONS

    encoder = quiet.load_encoder("fastlane-minilm")
    index = demo_index(encoder)
    questions = DEMO_QUESTIONS if options.question is None else [options.question]
    _answer(index, encoder, questions, options)


def _answer(
    index: FastLaneIndex,
    encoder: FastLaneEncoder,
    queries: Sequence[str],
    options: argparse.Namespace,
    **more: Any,
) -> None:
    from .display import format_hits

    num_routes = options.routes
    if num_routes == "default":
        num_routes = encoder.fastlane_config.query_num_routes
        if num_routes is None:
            message = "the router of this checkpoint is untrained: full late interaction"
            print(f"({message}, num_routes=None)", file=sys.stderr)
    for query in queries:
        hits = index.search(query, top_k=options.top_k, num_routes=num_routes, **more)
        print(format_hits(encoder, query, hits, color=sys.stdout.isatty()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
