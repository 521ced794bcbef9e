"""Kinds of tokens: special tokens, punctuation, stop words, and words with content."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias, get_args

TokenKind: TypeAlias = Literal["special", "punctuation", "stop_word", "content"]
KINDS: tuple[TokenKind, ...] = get_args(TokenKind)

STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could did
    do does for from had has have he her hers him his how i if in into is it its just may me might
    more most must my no nor not of on one only or other our out over shall she should so some such
    than that the their them then there these they this those through to too under up us very was we
    were what when where which while who whom whose why will with would you your s t re ve ll d m
    """.split()
)


def token_kind(token: str, is_special: bool = False) -> TokenKind:
    """Classifies a token as the tokenizer writes it.

    A piece that continues a word (WordPiece's "##") counts as content whatever its letters are.

    Example:
        >>> [token_kind(token) for token in ("▁The", "Ġ?", "##s", "json")]
        ['stop_word', 'punctuation', 'content', 'content']
    """
    if is_special:
        return "special"
    text = token.lstrip("▁Ġ")
    if not any(character.isalnum() for character in text):
        return "punctuation"
    return "stop_word" if text.lower() in STOP_WORDS else "content"


def token_kinds(
    tokens: Collection[str], ids: Collection[int], special_ids: Collection[int]
) -> list[TokenKind]:
    """Classifies the tokens of a text; those whose id is in `special_ids` are special."""
    special = set(special_ids)
    return [token_kind(token, id in special) for token, id in zip(tokens, ids, strict=True)]
