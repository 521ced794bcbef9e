"""Pairs of a query and a passage, made of documents without anyone's labels."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..data.rows import CorpusDocument
from ..retrofit.queries import CROP_WORDS

FEWEST_WORDS = 12
"""A passage of fewer words is no positive, and what a crop leaves of a document must have as many."""
HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
"""A heading of Markdown."""


@dataclass(frozen=True, slots=True)
class MadePair:
    """A query that was made of a document, and a passage of it that doesn't contain the query.

    Attributes:
        query: A title, a heading, or a crop.
        positive: The text under the title or heading, or what the crop left of the text.
        document: The number of the document.
        kind: "title", "heading" or "crop".
    """

    query: str
    positive: str
    document: int
    kind: str


def make_pairs(documents: Sequence[CorpusDocument], seed: int) -> list[MadePair]:
    """Makes the pairs of all documents: of titles, of headings with their sections, and of one crop each.

    A query is taken out of its passage, so that a model can't find the passage by its words alone: the
    inverse cloze task (Lee et al., arXiv 1906.00300). A query that several documents would have, such as the
    title of a page over each of its chunks, asks for none of them and is left out.

    Args:
        documents: Titles and texts.
        seed: Of the crops.
    """
    chance = random.Random(seed)
    pairs = [
        pair
        for number, document in enumerate(documents)
        for pair in _pairs_of(document, number, chance)
    ]
    askers = {(pair.query.casefold(), pair.document) for pair in pairs}
    times = Counter(query for query, _ in askers)
    return [pair for pair in pairs if times[pair.query.casefold()] == 1]


def _pairs_of(document: CorpusDocument, number: int, chance: random.Random) -> Iterator[MadePair]:
    title, text = document.title.strip(), document.text.strip()
    if title and _is_passage(text):
        yield MadePair(title, text, number, "title")
    for heading, section in _sections(text):
        query = f"{title} {heading}" if title else heading
        if _is_passage(section):
            yield MadePair(query, section, number, "heading")
    words = text.split()
    length = chance.choice(CROP_WORDS)
    if len(words) >= length + FEWEST_WORDS:
        start = chance.randrange(len(words) - length + 1)
        rest = [*words[:start], *words[start + length :]]
        yield MadePair(" ".join(words[start : start + length]), " ".join(rest), number, "crop")


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yields the headings of a text with what stands under each, up to the next one."""
    found = list(HEADING.finditer(text))
    starts = [match.start() for match in found] + [len(text)]
    for match, end in zip(found, starts[1:], strict=True):
        yield match[1], text[match.end() : end].strip()


def _is_passage(text: str) -> bool:
    return len(text.split()) >= FEWEST_WORDS
