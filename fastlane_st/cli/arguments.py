"""Arguments that several commands take, and the parsers of their values."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

Parsed = TypeVar("Parsed")


def usage(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """Turns a ValueError of `parse` into a usage error; typer alone would drop its message."""

    @functools.wraps(parse)
    def parse_argument(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse_argument


def parse_routes(text: str) -> int | float | str | None:
    """Parses a number, a fraction, "default", or "all" as None; the library checks ranges.

    Raises:
        ValueError: The text is none of these.
    """
    if text == "default":
        return text
    if text == "all":
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(f"expected a number or 'all', got {text!r}") from None


def parse_route_list(text: str) -> list[int | float | str | None]:
    """Parses comma-separated numbers of routes, each as `parse_routes` does."""
    return [parse_routes(one.strip()) for one in text.split(",")]


def parse_filter(text: str) -> Any:
    """Parses JSON; the library checks that it is a filter.

    Raises:
        ValueError: The text is no JSON, or nested too deeply.
    """
    got = text if len(text) <= 200 else f"{text[:200]}…"
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON, got {got!r}: {error}") from None
    except RecursionError:
        raise ValueError(f"expected JSON, got {got!r}: it is nested too deeply") from None


def parse_query(text: str) -> str:
    """Returns a query unchanged after checking that it is valid Unicode.

    Raises:
        ValueError: It holds lone surrogates, in place of bytes that the locale's encoding doesn't have.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected valid Unicode, got {text!r}") from None
    return text


def check_left_out(given: Mapping[str, tuple[Any, Any]], why: str) -> None:
    """Raises a ValueError for the first option that has another value than its default.

    Args:
        given: Value and default, by the option's name.
        why: Follows the name, such as "applies to a corpus".
    """
    for option, (value, default) in given.items():
        if value != default:
            raise ValueError(f"{option} {why}: leave it out")


BatchSize = Annotated[int, typer.Option(metavar="N", help="texts encoded at once")]
DocumentRoutes = Annotated[
    Any,
    typer.Option(
        metavar="N",
        parser=usage(parse_routes),
        show_default=False,
        help="token views that a document is pooled to: a number, a fraction such as 0.25, or 'all'",
    ),
]
QueryRoutes = Annotated[
    Any,
    typer.Option(
        metavar="N",
        parser=usage(parse_routes),
        show_default=False,
        help="token views of the query: a number or 'all'; default: the checkpoint's",
    ),
]
TopK = Annotated[int, typer.Option(metavar="N", help="hits to show")]
