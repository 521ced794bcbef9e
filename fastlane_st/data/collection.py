"""Reads a judged collection (documents, queries, relevance grades) from a folder in BEIR's layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .corpus import read_corpus
from .json_lines import read_lines

HEADER = "query-id\tcorpus-id\tscore"


@dataclass(frozen=True)
class Collection:
    """Documents, and the queries of one split with their judgements.

    Attributes:
        name: The folder's name.
        split: The name of the judgements, such as "test".
        documents: Text by id, title first, in the order of the corpus.
        queries: Text by id: exactly the queries that `qrels` judges, in the order of their file.
        qrels: Grade by document id by query id; above 0 is relevant.
    """

    name: str
    split: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def limit(self, num_queries: int | None = None, num_documents: int | None = None) -> Collection:
        """Gives a smaller collection for a trial; its metrics don't compare with the whole one's.

        Args:
            num_queries: Keep the first ones. None keeps all.
            num_documents: Keep every document that the kept queries' judgements name, and then the
                first others up to this number. None keeps all.

        Raises:
            ValueError: A number is below 1.
        """
        for name, number in (("num_queries", num_queries), ("num_documents", num_documents)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be a positive integer or None, got {number}")
        kept = list(self.queries)[:num_queries]
        judged = {document for query in kept for document in self.qrels[query]}
        others = [document for document in self.documents if document not in judged]
        if num_documents is not None:
            others = others[: max(0, num_documents - len(judged))]
        keep = judged.union(others)
        return Collection(
            name=self.name,
            split=self.split,
            documents={id: text for id, text in self.documents.items() if id in keep},
            queries={id: self.queries[id] for id in kept},
            qrels={id: self.qrels[id] for id in kept},
        )


def read_collection(folder: str | os.PathLike[str], split: str | None = None) -> Collection:
    """Reads `corpus.jsonl[.gz]`, `queries.jsonl[.gz]` and `qrels/<split>.tsv` of a folder.

    Args:
        folder: The collection's folder.
        split: Name of the judgements. None takes the only ones there are, or else "test".

    Raises:
        FileNotFoundError: A file is missing; the message says which, and which splits there are.
        ValueError: A row is broken, judges a query or document that doesn't exist, judges a pair
            twice, or a file holds none. The message names the file and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected a BEIR collection")
    documents = {one.id: one.content for one in read_corpus(_find(folder, "corpus"), log=False)}
    queries = {one.id: one.content for one in read_corpus(_find(folder, "queries"), log=False)}
    path = _find_qrels(folder, split)
    qrels: dict[str, dict[str, int]] = {}
    for place, query, document, grade in _read_qrels(path):
        if query not in queries:
            raise ValueError(f"{place}: the query {query!r} is not in {folder / 'queries.jsonl'}")
        if document not in documents:
            raise ValueError(f"{place}: the document {document!r} is not in the corpus")
        judged = qrels.setdefault(query, {})
        if document in judged:
            raise ValueError(f"{place}: {query!r} and {document!r} were judged before")
        judged[document] = grade
    if not qrels:
        raise ValueError(f"{path}: holds no judgement, so that nothing can be evaluated on it")
    return Collection(
        name=folder.resolve().name,
        split=path.stem,
        documents=documents,
        queries={id: text for id, text in queries.items() if id in qrels},
        qrels=qrels,
    )


def _find(folder: Path, name: str) -> Path:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise FileNotFoundError(f"{folder}: holds neither {name}.jsonl nor {name}.jsonl.gz")


def _find_qrels(folder: Path, split: str | None) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    wanted = split or ("test" if len(found) != 1 else next(iter(found)))
    if wanted not in found:
        there = ", ".join(found) or "none"
        raise FileNotFoundError(f"{folder / 'qrels' / wanted}.tsv: no such split; there: {there}")
    return found[wanted]


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yields the place, `file:line`, and the fields of each row."""
    for number, line in enumerate(read_lines(path), start=1):
        place, fields = f"{path}:{number}", line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if len(fields) != 3:
            raise ValueError(
                f"{place}: expected query, document and grade between tabs, got {line!r}"
            )
        is_grade = fields[2].lstrip("-").isdecimal()
        if number == 1 and is_grade:
            raise ValueError(f"{place}: no header; put {HEADER!r} on the first line")
        if number == 1:
            continue
        if not is_grade:
            raise ValueError(f"{place}: the grade must be an integer, got {fields[2]!r}")
        yield place, fields[0], fields[1], int(fields[2])
