"""Errors as a client gets them: `{"error": {"message", "field"}}` with a status.

What the library refuses is put under the field of the request that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_SHOWN = 60
"""Characters of a wrong value that an error repeats."""

LONGEST_MESSAGE = 500
"""Characters of an error; one of the library may repeat a whole filter."""

FIELDS = ("rerank", "candidates", "top_k", "num_routes", "where", "ids")
FILTER_ERRORS = re.compile(
    r"filter|no document has the field|\$\w+ of |compares with|has the operator"
)
BRANCHES = re.compile(
    r"(str|int|float|bool|none|list|constrained|literal|function|nullable)\b.*|TextDocument|\[key\]"
)
DOCUMENT_ERRORS = re.compile(r"metadata of document (\d+)|^(.+) of document (\d+) must be")


class RequestError(Exception):
    """A request that can't be answered.

    Attributes:
        status: Of HTTP.
        message: What came, what was expected, what to do.
        field: Where in the request, such as `documents.3.text`; None if it isn't about one.
    """

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        return error_body(self.message, self.field)


def error_body(message: str, field: str | None = None) -> dict[str, Any]:
    """An error as JSON; what JSON can't be encoded with is escaped."""
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}…"
    safe = message.encode("utf-8", "backslashreplace").decode()
    safe_field = None if field is None else field.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": safe, "field": safe_field}}


def refused(error: ValueError, default: str | None, status: int = 422) -> RequestError:
    """The library's error as one of a request.

    Args:
        error: What the library raised.
        default: The field that it is about, unless its message names another one.
        status: Of HTTP.
    """
    message = str(error)
    if found := DOCUMENT_ERRORS.search(message):
        return RequestError(status, message, f"documents.{found[1] or found[3]}.metadata")
    if FILTER_ERRORS.search(message):
        return RequestError(status, message, "where")
    named = re.match(r"\w+", message)
    field = named[0] if named and named[0] in FIELDS else default
    if default == "documents" and field == "ids":  # which lie in the documents
        field = default
    return RequestError(status, message, field)


def invalid(problems: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first of pydantic's errors, in words."""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", problem["msg"])
        return RequestError(
            400, f"the body must be JSON: {reason} at character {problem['loc'][-1]}"
        )
    first = place_of(problem)[:1]
    problem = max(
        (one for one in problems if place_of(one)[:1] == first), key=lambda one: len(place_of(one))
    )
    field = ".".join(place_of(problem)) or None
    if problem["type"] == "missing":
        what = "the body is empty: send JSON" if field is None else f"{field} is missing"
        return RequestError(422, what, field)
    if problem["type"] == "extra_forbidden":
        return RequestError(422, f"there is no field {field!r}", field)
    if problem["type"] in ("model_type", "model_attributes_type"):
        return RequestError(422, f"{field or 'the body'} must be an object", field)
    alike = (one["msg"] for one in problems if place_of(one) == place_of(problem))
    said = ", or ".join(dict.fromkeys(one.removeprefix("Input ") for one in alike))
    return RequestError(
        422, f"{field or 'the body'} {said}, got {shown(problem.get('input'))}", field
    )


def place_of(problem: Mapping[str, Any]) -> list[str]:
    """Where pydantic found a problem, without the branches of its unions."""
    place = [str(part) for part in problem["loc"] if part != "body"]
    return [part for part in place if not BRANCHES.fullmatch(part)]


def shown(value: object) -> str:
    """The start of a wrong value."""
    try:
        text = repr(value)
    except RecursionError:
        return "something nested deeply"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
