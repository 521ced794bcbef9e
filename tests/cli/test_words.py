"""Errors of the library in the words of the command line."""

from __future__ import annotations

import pytest

from fastlane_st.cli.words import in_options


@pytest.mark.parametrize(
    ("message", "command", "said"),
    [
        (
            "rerank must be at least top_k=10, got 9",
            "search",
            "--rerank must be at least --top-k 10, got 9",
        ),
        ("got 5 with num_routes=None, which", "search", "got 5 with --routes all, which"),
        (
            "x was started with num_routes='default', storage='float32', not",
            "index",
            "x was started with --document-routes default, --storage float32, not",
        ),
        ("num_routes must be a number", "add", "--document-routes must be a number"),
        ("num_routes must be a number", "evaluate", "--routes must be a number"),
        ("rename one of them, or", "index", "rename one of them, or"),
        ("of an index: name one", "evaluate", "of an index: name one with --index"),
        (
            "num_routes must be a fraction in (0, 1] or None, got 0",
            "add",
            "--document-routes must be a fraction in (0, 1] or 'all', got 0",
        ),
        (
            "num_queries must be a count or None, got 0",
            "",
            "--limit-queries must be a count or None, got 0",
        ),
        ("query 0 is empty", "search", "query 0 is empty"),
        ("batch_size/c.csv: no such file", "index", "batch_size/c.csv: no such file"),
        ("no document has the id 'top_k'", "show", "no document has the id 'top_k'"),
        ("processes that routes storage", "index", "processes that routes storage"),
    ],
)
def test_arguments_become_options(message: str, command: str, said: str) -> None:
    assert in_options(message, command) == said
