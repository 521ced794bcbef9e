"""Passages of several statements, made of a source whose documents are a single statement each.

A question about one sentence of a paragraph has to find the paragraph. Where a source holds the sentences
alone, those that are near to one another are joined, so that training sees documents like that.
"""

from __future__ import annotations

import random

import faiss
import numpy as np
import numpy.typing as npt
from datasets import Dataset
from topics import one_view_each

from fastlane_st import FastLaneEncoder

_NEIGHBOURS = 64


def join_positives(dataset: Dataset, encoder: FastLaneEncoder, size: int, seed: int = 0) -> Dataset:
    """Puts in place of each positive the passage that it is part of.

    Every text of the source is in one passage, so that rows whose positives were joined have the same
    document, and the sampler keeps them apart. Near means near by the texts' one routed view; texts
    whose neighbours are all taken make shorter passages.

    Args:
        dataset: Columns `query` and `positive`, and others that aren't documents.
        encoder: The one that the run starts with.
        size: How many texts make a passage.
        seed: Of the order in which passages are made and of the texts in each.

    Raises:
        ValueError: The rows have hard negatives, which would stay as short as they are.
    """
    if "negative_1" in dataset.column_names:
        raise ValueError("join is for pairs: hard negatives would be shorter than the positives")
    texts = list(dict.fromkeys(dataset["positive"]))
    passage_of: dict[str, str] = {}
    for group in group_near(one_view_each(encoder, texts, "document"), size, seed):
        passage = " ".join(texts[place] for place in group)
        passage_of |= dict.fromkeys((texts[place] for place in group), passage)
    passages = [passage_of[text] for text in dataset["positive"]]
    return dataset.remove_columns("positive").add_column("positive", passages)


def group_near(vectors: npt.NDArray[np.float32], size: int, seed: int = 0) -> list[list[int]]:
    """Puts the rows of `vectors`, (N, D), into groups of at most `size` that are near to one another.

    Greedy: a random row that is left takes the nearest ones that are left too.

    Returns:
        The groups, each in random order; every row is in one of them.
    """
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, neighbours = index.search(vectors, min(_NEIGHBOURS, len(vectors)))
    rng = random.Random(seed)
    order = list(range(len(vectors)))
    rng.shuffle(order)
    left = set(order)
    groups = []
    for first in order:
        if first not in left:
            continue
        near = [place for place in neighbours[first].tolist() if place in left and place != first]
        group = [first, *near[: size - 1]]
        left.difference_update(group)
        rng.shuffle(group)
        groups.append(group)
    return groups
