"""A request for routed vectors, checked. It relies on no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..modeling.configuration_fastlane import FastLaneConfig
from ..modeling.routing_fastlane import Task
from ..modeling.search_fastlane import check_documents, check_queries, check_unicode, plain
from .head import Asked

FIELDS = ("texts", "side", "num_routes")


class RouteRequest(NamedTuple):
    """Texts of one side, and what is asked of each."""

    texts: list[str]
    side: Task
    asked: Asked


def parse_request(data: object, config: FastLaneConfig) -> RouteRequest:
    """Checks a request, and fills in the checkpoint's number of routes where there is none.

    Args:
        data: An object with `texts`, a list of str; `side`, "query" or "document"; and maybe
            `num_routes`, as for `FastLaneModel.route`.
        config: The checkpoint's.

    Raises:
        ValueError: It is no such object, has other fields, no texts or a blank query, or a side or
            number of routes that isn't one.
    """
    if not isinstance(data, Mapping) or not {"texts", "side"} <= set(data) <= set(FIELDS):
        got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"data must have texts and side, and maybe num_routes, got {got}")
    side, texts = data["side"], data["texts"]
    if side not in ("query", "document"):
        raise ValueError(f'side must be "query" or "document", got {side!r}')
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"texts must be a list of one text at least, got {texts!r:.60}")
    texts = check_documents(texts)
    if side == "query":
        check_queries(texts)
    check_unicode(texts, "text")
    num_routes = config.resolve_num_routes(side, plain(data.get("num_routes", "default")))
    return RouteRequest(texts, side, {"side": side, "num_routes": num_routes})
