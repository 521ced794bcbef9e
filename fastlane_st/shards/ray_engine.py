"""Shards encoded by actors of Ray Data, each of which loads the checkpoint once.

A row of the dataset is the name of a shard whose texts wait in the folder. So Ray moves names and no vectors,
and a task that it runs again, because a worker died, finds the shard there or writes the same one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..encoder import FastLaneEncoder
from ..index.encoding import DocumentRoutes, Encoding
from ..index.long_texts import LongTexts
from .folder import ShardFolder, ShardSettings


@dataclass(frozen=True)
class Work:
    """What every worker needs to know; it is sent to all machines."""

    directory: str
    settings: ShardSettings
    num_routes: DocumentRoutes
    long_texts: LongTexts
    batch_size: int


class ShardWorker:
    """An actor that encodes one shard after another."""

    def __init__(self, work: Work) -> None:
        self._folder = ShardFolder(work.directory, work.settings)
        settings = work.settings
        encoder = FastLaneEncoder(settings.model, backend=settings.backend, dtype=settings.dtype)  # type: ignore[arg-type]
        work.settings.vectors.check_encoder(encoder, work.directory)
        self._encoding = Encoding(
            encoder, work.num_routes, work.batch_size, long_texts=work.long_texts
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes the shards that a batch names, and gives the batch back."""
        for name in batch["name"].tolist():
            if not self._folder.path(name).exists():
                self._folder.encode(name, self._folder.read_waiting(name), self._encoding)
        return batch


def encode_waiting(
    folder: ShardFolder,
    names: Sequence[str],
    encoding: Encoding,
    workers: int | None,
    gpus_per_worker: float,
) -> Iterator[str]:
    """Yields the names of shards as they are encoded; their texts wait in the folder.

    Starts Ray if it isn't running in this process, and then stops it at the end.
    """
    ray = import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        work = Work(
            str(folder.folder.absolute()),
            folder.settings,
            encoding.num_routes,
            encoding.long_texts,
            encoding.batch_size,
        )
        pool: dict[str, Any] = {"size": workers} if workers else {"min_size": 1}
        rows = ray.data.from_items(
            [{"name": name} for name in names], override_num_blocks=len(names)
        )
        encoded = rows.map_batches(
            ShardWorker,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(**pool, max_tasks_in_flight_per_actor=2),
            num_gpus=gpus_per_worker or None,
        )
        for row in encoded.iter_rows():
            yield row["name"]
    finally:
        if is_ours:
            ray.shutdown()


def import_ray() -> ModuleType:
    """The module `ray` with `ray.data`, imported at first use."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('encoding with Ray needs it: pip install "fastlane-st[ray]"') from error
    module: ModuleType = ray
    return module
