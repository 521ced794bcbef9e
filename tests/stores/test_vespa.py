"""Vespa: schema, documents, queries and hits, checked against each other."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fastlane_st.index.segment import Document
from fastlane_st.modeling.search_fastlane import Match, Views
from fastlane_st.stores.records import Record
from fastlane_st.stores.settings import StoreSettings
from fastlane_st.stores.vespa import (
    fact_digest,
    feed_operations,
    query_body,
    read_hits,
    schema_text,
)


def record(metadata: dict[str, Any], positions: tuple[int, ...] = (1, 4)) -> Record:
    views = Views(
        np.eye(3, dtype=np.float32)[: len(positions)], np.array(positions, dtype=np.int32)
    )
    return Record.of(Document("d", views, "a text", metadata, 0), StoreSettings(3))


def test_the_schema_declares_all_that_documents_and_queries_have() -> None:
    schema = schema_text(3, number_fields=["year"])
    assert schema.count("{") == schema.count("}")
    declared = set(re.findall(r"field (\w+) type", schema))
    [operation] = feed_operations(
        [record({"year": 2024, "language": "de"})], number_fields=["year"]
    )
    assert set(operation["fields"]) == declared
    body = query_body([[1.0, 0, 0]], 5, rerank=20, views=np.eye(3), number_fields=["year"])
    inputs = {name for name in body if name.startswith("input.")}
    assert inputs == {
        f"input.{name}" for name in re.findall(r"^ +(query\(\w+\)) tensor", schema, re.M)
    }
    profiles = re.findall(r"rank-profile (\w+)", schema)
    assert body["ranking.profile"] in profiles
    assert query_body([[1.0, 0, 0]])["ranking.profile"] in profiles
    assert set(body["yql"].split(" from ")[0].removeprefix("select ").split(", ")) <= declared
    assert "tensor<bfloat16>(token{}, x[3])" in schema


def test_a_document_is_a_tensor_mapped_by_position() -> None:
    [operation] = feed_operations([record({"draft": True})])
    assert operation["put"] == "id:documents:documents::d"
    fields = operation["fields"]
    assert fields["tokens"] == {"blocks": {"1": [1.0, 0.0, 0.0], "4": [0.0, 1.0, 0.0]}}
    assert fact_digest('{"draft": true}') in fields["facts"]
    with pytest.raises(ValueError, match="'d' has two vectors at one position"):
        list(feed_operations([record({}, (1, 1))]))


def test_a_query_finds_by_one_route_and_ranks_by_all() -> None:
    body = query_body([[0.5, 1.0]], 5, rerank=20, views=[[0.5, 1.0], [1.0, 0.0]])
    assert body["yql"].endswith(
        "from documents where {targetHits: 20}nearestNeighbor(tokens, route)"
    )
    assert (body["hits"], body["ranking.rerankCount"]) == (5, 20)
    assert body["input.query(route)"] == [0.5, 1.0]
    assert body["input.query(views)"] == {"blocks": {"0": [0.5, 1.0], "1": [1.0, 0.0]}}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"a": "x"}, '(facts contains "{x}")'),
        ({"a": {"$ne": "x"}}, '(true and !(facts contains "{x}"))'),
        ({"year": {"$gt": 3, "$lte": 5.5}}, "(number_year > 3.0 and number_year <= 5.5)"),
        ({"a": {"$in": []}}, "false"),
        ({}, "true"),
    ],
)
def test_filters_are_yql(where: dict[str, Any], expected: str) -> None:
    yql = query_body([[1.0]], where=where, number_fields=["year"])["yql"]
    digest = fact_digest('{"a": "x"}')
    assert yql.partition(" and ")[2] == expected.replace("{x}", digest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"a": {"$lt": "m"}}}, r"Vespa has no \$lt of texts, asked of 'a'"),
        ({"where": {"a": {"$lt": 1}}}, r"\$lt of 'a' needs a field of the schema"),
        ({"rerank": 20}, "rerank and views belong together"),
        ({"rerank": 2, "views": [[1.0]]}, "rerank must be at least top_k=10, got 2"),
        ({"rerank": 20, "views": [[1.0, 2.0]]}, r"views must have shape \(number, 1\)"),
        ({"name": "a b"}, "expected a name of letters"),
        ({"number_fields": ["a-b"]}, "expected a name of letters"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query_body([[1.0]], **options)


@pytest.mark.parametrize(
    "closest", [{"type": "tensor<float>(token{})", "cells": {"4": 1.0}}, {"4": 1.0}]
)
def test_hits_have_the_closest_token(closest: dict[str, Any]) -> None:
    [operation] = feed_operations([record({"year": 2024})])
    fields = {**operation["fields"], "matchfeatures": {"closest(tokens)": closest}}
    response = {"root": {"children": [{"relevance": 0.75, "fields": fields}]}}
    [hit] = read_hits(response, query_position=2)
    assert (hit.id, hit.text, hit.metadata) == ("d", "a text", {"year": 2024})
    assert hit.matches == (Match(2, 4, 0.75),)
    assert read_hits({"root": {}}) == []
