"""Puts errors of the library into the words of the command line: options in place of arguments."""

from __future__ import annotations

import re

OPTIONS = {
    "batch_size": "--batch-size",
    "code_from": "--code-from",
    "data_sets": "--data-sets",
    "document_routes": "--document-routes",
    "id_column": "--id-column",
    "long_texts": "--long-texts",
    "nano_beir_data": "--nano-beir-data",
    "num_documents": "--limit-documents",
    "num_queries": "--limit-queries",
    "num_routes": "--routes",
    "processes": "--processes",
    "rerank": "--rerank",
    "routes": "--routes",
    "text_column": "--text-column",
    "top_k": "--top-k",
    "storage": "--storage",
    "kind": "--kind",
}
BUILDING = {"num_routes": "--document-routes"}  # of `index`, `add` and `export-vectors`
PLAIN = ("kind", "processes", "rerank", "routes", "storage")  # words of English: only as a subject
PHRASES = {
    ": update or upsert replaces documents": (
        ": --replace puts the new ones in their place, --resume passes over those that are the same"
    ),
    "index.ids lists those there are": "'fastlane list INDEX' lists those there are",
    "or resume if its building was interrupted": "or go on with --resume if it was interrupted",
    "there is nothing to resume; use add": "there is nothing to resume; use 'fastlane add'",
    " (index.checkpoint = [] lets any in)": "",
    ": name one": ": name one with --index",
}
ALL_ROUTES = re.compile(r"(?<=\bnum_routes must be )(.*) or None(?=, got)")


def in_options(message: str, command: str | None) -> str:
    """Replaces the names of arguments in an error by the options of a command.

    Example:
        >>> in_options("rerank must be at least top_k=10, got 9", "search")
        '--rerank must be at least --top-k 10, got 9'
        >>> in_options("num_routes must be a positive integer or None, got 0", "index")
        "--document-routes must be a positive integer or 'all', got 0"
    """
    options = OPTIONS | (BUILDING if command in ("index", "add", "export-vectors") else {})
    for phrase, words in PHRASES.items():
        message = message.replace(phrase, words)
    message = ALL_ROUTES.sub(r"\1 or 'all'", message)
    names = "|".join(options)
    others = "|".join(name for name in options if name not in PLAIN)

    def assigned(found: re.Match[str]) -> str:
        value = found[2].strip("'")
        return f"{options[found[1]]} {'all' if value == 'None' else value}"

    message = re.sub(rf"\b({names})=('[^']*'|[\w.]*\w)", assigned, message)
    message = re.sub(
        rf"^({names})(?= (must|applies|is for)\b)", lambda found: options[found[1]], message
    )
    # Not in a path or a quoted id.
    return re.sub(
        rf"(?<![\w/'\".-])({others})(?![\w/'\".-])", lambda found: options[found[1]], message
    )
