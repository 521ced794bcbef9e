"""Reads YAML files and makes dataclasses of them; errors name the file or the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")

_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    tuple: "a list",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        ValueError: The file is no text, no YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: broken YAML ({_on_one_line(error)})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping, got {values!r}")
    return values


def replace_value(values: dict[str, Any], override: str) -> None:
    """Sets the value that `override` names, in place.

    Example:
        >>> values = {"loss_weights": {"full": 1.0}}
        >>> replace_value(values, "loss_weights.oracle=0.1")
        >>> values
        {'loss_weights': {'full': 1.0, 'oracle': 0.1}}

    Raises:
        ValueError: It isn't `key=value`, its value is no YAML, or the key lies below a plain value.
    """
    key, is_given, value = override.partition("=")
    if not is_given:
        raise ValueError(f"expected key=value, got {override!r}")
    *sections, last = key.split(".")
    for name in sections:
        inner = values.get(name)
        if inner is None:
            inner = values[name] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"{override}: {name} must be a mapping, got {inner!r}")
        values = inner
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{override}: broken YAML ({_on_one_line(error)})") from None


def replace_values(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Sets what each of `overrides` names, in place, and gives the mapping; errors as of `replace_value`."""
    for override in overrides:
        replace_value(values, override)
    return values


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def parse(kind: type[T], values: Any, where: str = "") -> T:
    """Makes a dataclass from a mapping, each value converted to its field's type.

    Args:
        kind: The dataclass; its fields may be numbers, strings, `Literal`, tuples of one type, dicts,
            dataclasses, and any of them or None.
        values: The mapping.
        where: The key of the mapping in the file, for errors; empty at the top.

    Raises:
        ValueError: A key is unknown (the message names the nearest) or missing, or a value is of the
            wrong kind.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'a configuration'} must be a mapping, got {values!r}")
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in hints:
            nearest = difflib.get_close_matches(str(key), hints, n=1, cutoff=0)[0]
            raise ValueError(f"unknown key {prefix}{key}; the nearest is {prefix}{nearest}")
    for each in fields(kind):  # type: ignore[arg-type]
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and each.name not in values:
            raise ValueError(f"{prefix}{each.name} is missing")
    return kind(**{key: convert(value, hints[key], prefix + key) for key, value in values.items()})


def convert(value: Any, hint: Any, name: str) -> Any:
    """Converts `value` to the type `hint`: lists to tuples, and `2e-5`, a string to YAML, to a number."""
    choices = get_args(hint)
    if NoneType in choices:
        return None if value is None else convert(value, choices[0], name)
    if get_origin(hint) is Literal:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(convert(each, choices[0], f"{name}[{i}]") for i, each in enumerate(value))
    if is_dataclass(hint):
        return parse(hint, value, name)  # type: ignore[arg-type]
    plain = get_origin(hint) or hint
    if plain is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{name} must be {_KINDS[plain]}, got {value!r}")
