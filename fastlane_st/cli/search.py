"""The `search` command, and the answers that it and `demo` print."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import QueryRoutes, parse_filter, parse_query, usage
from .display import format_hits, print_json, printable, shows_color
from .index import Folder, Model, load, model_of, unfinished_note

if TYPE_CHECKING:
    from ..index.index import FastLaneIndex
    from ..modeling.modeling_fastlane import FastLaneModel
    from ..modeling.search_fastlane import Hit


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command()(search)


def search(
    folder: Folder,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            parser=usage(parse_query),
            help="one or several, or - to read one a line from standard input",
        ),
    ],
    model: Model = None,
    where: Annotated[
        Any,
        typer.Option(
            metavar="JSON",
            parser=usage(parse_filter),
            help="""filter, as {"year": {"$gte": 2020}}""",
        ),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option(metavar="N", help="rank the best N again by all tokens of the query"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="N", help="hits to show; default: 10, or as many as --rerank ranks"),
    ] = None,
    routes: QueryRoutes = "default",
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="fuse the ranking with that of BM25 over the texts")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print each hit as JSON, on a line")
    ] = False,
) -> None:
    """Searches an index for one or several queries."""
    if hybrid:
        from ..index.hybrid import import_bm25s

        import_bm25s()  # missing, it is named before the model is loaded
    if top_k is None:
        top_k = 10 if rerank is None or rerank < 1 else min(10, rerank)
    with garbage_kept():
        from ..loading import load_model

        loaded = load(folder, memory_map=True)
        if unfinished := unfinished_note(folder, loaded):
            print(printable(f"fastlane: {folder} is unfinished: {unfinished}"), file=sys.stderr)
        encoder = load_model(model or model_of(loaded))
        loaded.encoder = encoder
    asked = read_queries() if queries == ["-"] else queries
    try:
        answer(
            loaded,
            encoder,
            asked,
            routes,
            top_k=top_k,
            where=where,
            rerank=rerank,
            hybrid=hybrid,
            as_json=as_json,
        )
    except RecursionError:
        if where is None:
            raise
        raise typer.BadParameter("it is nested too deeply", param_hint="'--where'") from None


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Suspends garbage collection while modules and models load, and exempts them from it for good.

    Loading leaves no garbage, but the collector's passes take a quarter of the time to the first answer.
    """
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # once per process: what is frozen is never freed
            gc.freeze()
        gc.enable()


def read_queries() -> Iterator[str]:
    """Yields the lines of standard input that aren't blank."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # `parse_query` rejects such bytes
    for line in sys.stdin:
        if line.strip():
            yield usage(parse_query)(line.rstrip("\r\n"))


def answer(
    index: FastLaneIndex,
    encoder: FastLaneModel,
    queries: Iterable[str],
    num_routes: Any,
    *,
    as_json: bool = False,
    hybrid: bool = False,
    **options: Any,
) -> None:
    """Searches queries one at a time and prints the hits of each; `options` go to `index.search`."""
    if num_routes == "default" and encoder.config.query_num_routes is None:
        message = "the router of this checkpoint is untrained: full late interaction"
        print(f"({message}, --routes all)", file=sys.stderr)
    color = shows_color(sys.stdout)
    find = fused_search(index) if hybrid else index.search
    for query in queries:
        hits: list[Hit] = find(query, num_routes=num_routes, **options)
        explanations = index.explain(query, hits)
        if as_json:
            for hit, explanation in zip(hits, explanations, strict=True):
                words = explanation.to_dict(query, hit.text)
                print_json({"query": query, **hit.to_dict(), **words})
        else:
            print(format_hits(query, hits, explanations, color=color) + "\n")
        sys.stdout.flush()  # a caller that sends one query at a time waits for its answer


def fused_search(index: FastLaneIndex) -> Callable[..., list[Hit]]:
    """Gives a search whose hits are those of `HybridSearch`; one that only BM25 found has no matches."""
    from ..index.hybrid import HybridSearch
    from ..modeling.search_fastlane import Hit

    searcher = HybridSearch(index)

    def find(query: str, *, top_k: int, rerank: int | None, **options: Any) -> list[Hit]:
        depth = max(top_k, 100) if rerank is None else max(top_k, min(100, rerank))
        [fused] = searcher.search([query], top_k, depth=depth, rerank=rerank, **options)
        hits = []
        for one in fused:
            matches, span = ((), None) if one.hit is None else (one.hit.matches, one.hit.span)
            [stored] = index.get([one.id])
            hits.append(Hit(one.id, one.score, matches, one.text, stored.metadata, span))
        return hits

    return find
