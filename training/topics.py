"""Topic-aware batches: a query's negatives are documents of near queries, at no cost per step.

Random batches soon become too easy: any view of a query tells its positive from 63 documents on other
topics. TAS-B (arXiv 2104.06967) clusters the queries once and draws each batch from one cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

from fastlane_st import FastLaneEncoder
from fastlane_st.modeling.routing_fastlane import Task

TOPIC = "topic"
NOT_TEXTS = ("origin", TOPIC)
"""The columns that hold no text."""


def add_topics(
    dataset: Dataset, encoder: FastLaneEncoder, topic_size: int, seed: int = 0
) -> Dataset:
    """Adds a column `topic`: the k-means cluster of each row's query.

    Clusters hold `topic_size` rows on average and compare queries by their single routed view. They
    don't depend on the number of processes or the batch size of training.
    """
    vectors = one_view_each(encoder, dataset["query"], "query")
    num_topics = max(1, len(vectors) // topic_size)
    kmeans = faiss.Kmeans(
        vectors.shape[1], num_topics, seed=seed, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(vectors)
    _, topics = kmeans.index.search(vectors, 1)
    return dataset.add_column(TOPIC, topics[:, 0].tolist())


def one_view_each(
    encoder: FastLaneEncoder, texts: Sequence[str], task: Task
) -> npt.NDArray[np.float32]:
    """Encodes each text as one routed view, (N, D) float32, computed in bfloat16."""
    encode = encoder.encode_query if task == "query" else encoder.encode_document
    with torch.autocast(encoder.device.type, torch.bfloat16):
        views = encode(list(texts), num_routes=1, batch_size=128, convert_to_numpy=True)
    return np.concatenate(views).astype(np.float32, copy=False)


class TopicBatchSampler(DefaultBatchSampler):
    """Draws batches of one topic whose rows share no text.

    Rows that don't fill a batch of their topic are put into a batch with rows of the next topic. The
    arguments are those of Sentence Transformers' samplers. All columns of the dataset but `topic` and
    `origin` are texts.
    """

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **kwargs: Any) -> None:
        super().__init__(dataset, batch_size, drop_last, **kwargs)
        self.topics = np.array(dataset[TOPIC])
        names = [name for name in dataset.column_names if name not in NOT_TEXTS]
        columns = [dataset[name] for name in names]
        self.texts = [set(row) for row in zip(*columns, strict=True)]

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self.texts) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the batches of an epoch, in an order that depends on seed and epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        num_given = 0
        while num_given < len(self):  # another pass if shared texts kept rows out of all batches
            batches = list(self.fill(self.draw_order(generator)))
            if not batches:
                return
            for place in torch.randperm(len(batches), generator=generator).tolist():
                if num_given < len(self):
                    yield batches[place]
                    num_given += 1

    def draw_order(self, generator: torch.Generator) -> list[int]:
        """Returns all row numbers, topic by topic; topics and the rows of each in random order."""
        rows = torch.randperm(len(self.texts), generator=generator).numpy()
        places = torch.randperm(int(self.topics.max()) + 1, generator=generator).numpy()
        return rows[np.argsort(places[self.topics[rows]], kind="stable")].tolist()  # type: ignore[no-any-return]

    def fill(self, order: list[int]) -> Iterator[list[int]]:
        """Yields full batches in the given order; a row that shares a text waits for the next one."""
        while order:
            batch: list[int] = []
            skipped: list[int] = []
            texts: set[str] = set()
            for place, row in enumerate(order):
                if not texts.isdisjoint(self.texts[row]):
                    skipped.append(row)
                    continue
                batch.append(row)
                texts |= self.texts[row]
                if len(batch) == self.batch_size:
                    yield batch
                    order = skipped + order[place + 1 :]
                    break
            else:
                return
