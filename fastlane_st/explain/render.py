"""Explanations as text, HTML and SVG, from what `PairExplanation.to_dict` gives; all texts are escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

ROW = 26  # height of a word in the picture, in pixels
LETTER = 8.0  # width of a letter there
LONGEST = 24  # letters of a word that are drawn
AMBER, BLUE = "245,185,66", "59,118,171"


def as_text(found: Mapping[str, Any]) -> str:
    """A table of the words, and a line for each route."""
    rows = [
        (one["query_word"], one["document_word"] or "-", one["similarity"], one["contribution"])
        for one in found["words"]
    ]
    width = max((len(printable(row[0])) for row in rows), default=0)
    other = max((len(printable(row[1])) for row in rows), default=0)
    lines = [f"full MaxSim {found['maxsim']:.4f}"]
    lines.append(f"  {'query':<{width}}  {'document':<{other}}  similarity  contribution")
    for word, met, similarity, contribution in rows:
        words = f"{printable(word):<{width}}  {printable(met):<{other}}"
        lines.append(f"  {words}  {similarity:10.4f}  {contribution:12.4f}")
    if found["routes"]:
        lines.append(f"routed {found['score']:.4f}")
    for route in found["routes"]:
        center = printable(route["query_word"] or "a special token")
        met = printable(route["document_word"] or "a special token")
        lines.append(f"  centred on {center}, nearest to {met}: adds {route['similarity']:.4f}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """A word without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def as_html(found: Mapping[str, Any]) -> str:
    """Both texts with the words marked by what they contributed, the routes, and the picture."""
    most = max((one["contribution"] for one in found["words"]), default=0.0)
    marks: dict[str, list[tuple[int, int, float, str]]] = {"query": [], "document": []}
    for one in found["words"]:
        share = shade(one["contribution"], most)
        met = one["document_word"]
        title = f"{one['query_word']} – {met or 'no word'}: {one['similarity']:.3f}"
        marks["query"].append((*one["query_span"], share, title))
        if met is not None:
            marks["document"].append((*one["document_span"], share, title))
    routes = "".join(
        f"<li>a route centred on <b>{html.escape(one['query_word'] or 'a special token')}</b>, nearest to "
        f"<b>{html.escape(one['document_word'] or 'a special token')}</b>: adds {one['similarity']:.3f}</li>"
        for one in found["routes"]
    )
    score = f"routed {found['score']:.3f}, " if found["routes"] else ""
    return (
        '<div class="fastlane-explanation" style="font-family:sans-serif;max-width:60em">'
        f"<p><b>Query</b> {marked(found['query'], marks['query'])}</p>"
        f'<p style="white-space:pre-wrap"><b>Document</b> {marked(found["document"], marks["document"])}</p>'
        f"<p>{score}full MaxSim {found['maxsim']:.3f}</p>"
        + (f"<ul>{routes}</ul>" if routes else "")
        + as_svg(found)
        + "</div>"
    )


def marked(text: str, spans: Sequence[tuple[int, int, float, str]]) -> str:
    """A text whose spans have a background; of spans at one place the strongest counts."""
    strongest: dict[tuple[int, int], tuple[float, str]] = {}
    for start, end, share, title in spans:
        if share > strongest.get((start, end), (0.0, ""))[0]:
            strongest[start, end] = share, title
    parts, at = [], 0
    for (start, end), (share, title) in sorted(strongest.items()):
        if start < at:  # overlaps the last one
            continue
        parts.append(html.escape(text[at:start]))
        parts.append(
            f'<mark style="background:rgba({AMBER},{share:.2f})" title="{html.escape(title)}">'
            f"{html.escape(text[start:end])}</mark>"
        )
        at = end
    return "".join([*parts, html.escape(text[at:])])


def as_svg(found: Mapping[str, Any]) -> str:
    """The query's words on the left, those of the document that they met on the right, and lines between."""
    words = found["words"]
    met = sorted({tuple(one["document_span"]) for one in words if one["document_span"] is not None})
    rows = {span: place for place, span in enumerate(met)}
    names = {
        tuple(one["document_span"]): one["document_word"] for one in words if one["document_span"]
    }
    centers = {tuple(one["query_span"]) for one in found["routes"] if one["query_span"]}
    most = max((one["contribution"] for one in words), default=0.0)
    left = LETTER * max((len(short(one["query_word"])) for one in words), default=1) + 16
    right = LETTER * max((len(short(word)) for word in names.values()), default=1) + 16
    middle = 180
    height = ROW * max(len(words), len(met), 1) + 8
    parts = []
    for place, one in enumerate(words):
        y = ROW * place + ROW / 2 + 4
        if one["document_span"] is not None:
            other = ROW * rows[tuple(one["document_span"])] + ROW / 2 + 4
            share = shade(one["contribution"], most)
            parts.append(
                f'<path d="M{left:.0f} {y:.0f} C{left + middle / 2:.0f} {y:.0f} '
                f'{left + middle / 2:.0f} {other:.0f} {left + middle:.0f} {other:.0f}" fill="none" '
                f'stroke="rgb({BLUE})" stroke-opacity="{max(share, 0.08):.2f}" '
                f'stroke-width="{1 + 4 * share:.1f}"/>'
            )
        is_center = tuple(one["query_span"]) in centers
        parts.append(word_svg(one["query_word"], left - 8, y, "end", is_center))
    for span, place in rows.items():
        y = ROW * place + ROW / 2 + 4
        parts.append(word_svg(names[span], left + middle + 8, y, "start"))
    width = left + middle + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'role="img" font-family="sans-serif" font-size="14"><title>query and document words that met</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def word_svg(word: str, x: float, y: float, anchor: str, is_center: bool = False) -> str:
    """A word of the picture; one that a route is centred on is bold and underlined."""
    style = ' font-weight="bold" text-decoration="underline"' if is_center else ""
    return (
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="{anchor}" fill="#222"{style}>'
        f"{html.escape(short(word))}</text>"
    )


def short(word: str) -> str:
    """The beginning of a word, without what XML can't hold."""
    word = printable(word)
    return word if len(word) <= LONGEST else word[: LONGEST - 1] + "…"


def shade(contribution: float, most: float) -> float:
    """A contribution as a share of the greatest one, from 0 to 1."""
    return max(0.0, contribution / most) if most > 0 else 0.0
