"""What arguments mean, and which texts are refused."""

from __future__ import annotations

import pytest
import typer

from fastlane_st.cli.arguments import (
    parse_filter,
    parse_query,
    parse_route_list,
    parse_routes,
    usage,
)


def test_routes_are_counts_fractions_or_words() -> None:
    assert [parse_routes(text) for text in ("3", "-1", "default", "all")] == [
        *(3, -1, "default", None)
    ]
    assert parse_routes("0.25") == 0.25
    assert parse_route_list("1, 2,all") == [1, 2, None]
    for text in ("few", "", "1,2", "0.x"):
        with pytest.raises(ValueError, match=f"expected a number or 'all', got '{text}'"):
            parse_routes(text)


def test_a_filter_is_json_and_a_long_one_is_shortened_in_messages() -> None:
    assert parse_filter('{"year": {"$gte": 2020}}') == {"year": {"$gte": 2020}}
    with pytest.raises(ValueError, match=r"expected JSON, got 'year': Expecting value"):
        parse_filter("year")
    with pytest.raises(ValueError, match=r"got '\[{200}…': it is nested too deeply$"):
        parse_filter("[" * 100_000)


def test_a_query_is_valid_unicode() -> None:
    assert parse_query("Łódź 🏙") == "Łódź 🏙"
    with pytest.raises(ValueError, match=r"expected valid Unicode, got 'caf\\udce9'"):
        parse_query("caf\udce9")


def test_a_value_error_becomes_a_usage_error_with_its_message() -> None:
    assert usage(parse_routes)("2") == 2
    with pytest.raises(typer.BadParameter, match="got 'few'"):
        usage(parse_routes)("few")
