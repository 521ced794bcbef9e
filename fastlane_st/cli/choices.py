"""The values of options that the engine knows: it is imported only if they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperOption

from .arguments import usage


def kinds() -> tuple[str, ...]:
    """Lists the values of `--kind`; this imports the engine."""
    from ..index.vectors.settings import Kind

    return ("auto", *get_args(Kind))


def storages() -> tuple[str, ...]:
    """Lists the values of `--storage`; this imports the engine."""
    from ..index.vectors.settings import Storage

    return get_args(Storage)


def long_texts() -> tuple[str, ...]:
    """Lists the values of `--long-texts`."""
    from ..index.long_texts import LongTexts

    return get_args(LongTexts)


CHOICES = {"kind": kinds, "storage": storages, "long_texts": long_texts}


def one_of(choices: Callable[[], tuple[str, ...]]) -> Callable[[str], str]:
    """Gives a parser that accepts only the values of `choices()`, called when it parses."""

    def parse_choice(text: str) -> str:
        if text not in choices():
            expected = ", ".join(map(repr, choices()))
            raise ValueError(f"invalid choice: {text!r} (choose from {expected})")
        return text

    return usage(parse_choice)


Backend = Annotated[
    Any,
    typer.Option(
        metavar="BACKEND",
        parser=one_of(lambda: ("torch", "onnx", "auto")),
        help="what encodes: torch, onnx (needs the extra), or auto for this machine's fastest",
    ),
]
Dtype = Annotated[
    Any,
    typer.Option(
        metavar="DTYPE",
        parser=one_of(lambda: ("float32", "bfloat16", "int8", "auto")),
        help="what it computes in: bfloat16 is of torch, int8 of onnx; default: the checkpoint's",
    ),
]


class IndexCommand(TyperCommand):
    """The `index` and `add` commands: imports the engine for its choices only when help is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.name in CHOICES:
                choices = ", ".join(CHOICES[parameter.name]())
                parameter.help = f"{choices}: {parameter.help}"
        super().format_help(ctx, formatter)
