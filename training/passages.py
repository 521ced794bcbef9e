"""Joins near positives of a source into passages.

A question about one sentence must find the paragraph that holds it. If a source holds single sentences,
joining those that are near to one another gives training such paragraphs.
"""

from __future__ import annotations

import random

import faiss
import numpy as np
import numpy.typing as npt
from datasets import Dataset

from fastlane_st import FastLaneEncoder

from .topics import one_view_each

_NEIGHBOURS = 64


def join_positives(dataset: Dataset, encoder: FastLaneEncoder, size: int, seed: int = 0) -> Dataset:
    """Replaces each positive by a passage of up to `size` near positives that contains it.

    Every text is in exactly one passage. Rows whose positives were joined have the same document, so
    that the sampler never puts them into one batch. Near texts are those whose single routed views
    have a large inner product; a text whose neighbours are all taken makes a shorter passage.

    Args:
        dataset: Columns `query` and `positive`, and others that hold no documents.
        encoder: The untrained encoder of the run.
        size: The number of texts in a passage.
        seed: Seed of the order in which passages are made and of the texts in each.

    Raises:
        ValueError: The rows have hard negatives, which would stay shorter than the passages.
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
    """Splits the rows of `vectors`, (N, D), into groups of at most `size` near rows.

    Greedy: in random order, each row without a group takes its nearest rows without one.

    Returns:
        The groups of row numbers, each in random order.
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
