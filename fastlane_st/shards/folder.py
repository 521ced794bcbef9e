"""ShardFolder: routed vectors in Parquet files that are named by what is in them.

A shard's name is a digest of its documents and of how they are encoded. So it is known before anything is
encoded, no two workers can disagree about it, and a shard that is there needn't be encoded again.
It relies on pyarrow.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.rows import CorpusDocument
from ..files import replace_file
from ..index.encoding import Encoding
from ..index.incoming import Incoming
from ..index.segment import Document
from ..stores.arrow import arrow_table, read_rows, schema_of
from ..stores.base import blocks
from ..stores.export import text_digest
from ..stores.parquet import import_parquet
from ..stores.records import Record
from ..stores.settings import StoreSettings

MANIFEST = "shards.json"
FORMAT = 1
WAITING = "waiting"
NUM_VECTORS = b"fastlane_vectors"


class Shard(NamedTuple):
    """A shard of a finished folder."""

    name: str
    documents: int
    vectors: int


@dataclass(frozen=True)
class ShardSettings:
    """What all shards of a folder have in common.

    Attributes:
        vectors: What the vectors are, and which checkpoint made them.
        shard_size: Documents in each shard but the last.
        model: The checkpoint's folder or name.
        backend, dtype: What encodes, settled (see `onnx.backend.choose`).
    """

    vectors: StoreSettings
    shard_size: int
    model: str
    backend: str = "torch"
    dtype: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "vectors": json.loads(self.vectors.to_json())}


class ShardFolder:
    """A folder of shards `<name>.parquet`, a list of them once all are there, and texts that wait.

    Args:
        directory: See `prepare`.
        settings: Of all shards.
    """

    def __init__(self, directory: str | os.PathLike[str], settings: ShardSettings) -> None:
        self.folder = Path(directory)
        self.settings = settings

    def prepare(self) -> None:
        """Makes the folder ready for shards; until `finish` it says that it isn't whole.

        Raises:
            FileExistsError: It holds other files.
            ValueError: Its shards have other settings.
            ImportError: pyarrow isn't installed.
        """
        import_parquet()
        manifest = self.folder / MANIFEST
        if manifest.exists():
            check_same(self.folder, read_manifest(self.folder)["settings"], self.settings.to_dict())
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} holds other files: name a new folder")
        (self.folder / WAITING).mkdir(parents=True, exist_ok=True)
        self._write_manifest(None)

    def shards(
        self, documents: Iterable[CorpusDocument]
    ) -> Iterator[tuple[str, list[CorpusDocument]]]:
        """Yields the documents of each shard, with its name."""
        kept = json.dumps(self.settings.to_dict(), sort_keys=True)
        for block in blocks(documents, self.settings.shard_size):
            hashed = hashlib.blake2b(digest_size=16)
            for document in block:
                hashed.update(text_digest(document, kept).encode())
            yield hashed.hexdigest(), block

    def path(self, name: str) -> Path:
        """The file of a shard, which need not be there."""
        return self.folder / f"{name}.parquet"

    def write_waiting(self, name: str, documents: Sequence[CorpusDocument]) -> None:
        """Keeps the texts of a shard for a worker that encodes them."""
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in documents)
        replace_file(self._waiting(name), lambda path: path.write_text(lines, "utf-8"))

    def read_waiting(self, name: str) -> list[CorpusDocument]:
        """The texts that `write_waiting` kept."""
        lines = self._waiting(name).read_text("utf-8").splitlines()
        return [CorpusDocument(**json.loads(line)) for line in lines]

    def encode(self, name: str, documents: Sequence[CorpusDocument], encoding: Encoding) -> None:
        """Encodes the documents of a shard, writes it whole or not at all, and forgets their texts."""
        settings = self.settings.vectors
        records = [
            Record.of(one, settings, is_compared=False)
            for one in Incoming.of_corpus(documents).documents(encoding)
        ]
        schema = schema_of(settings)
        count = sum(len(one.document.views.vectors) for one in records)
        schema = schema.with_metadata({**schema.metadata, NUM_VECTORS: str(count).encode()})
        table = arrow_table(records, settings, schema)
        replace_file(self.path(name), lambda path: import_parquet().write_table(table, path))
        self._waiting(name).unlink(missing_ok=True)

    def finish(self, names: Sequence[str]) -> list[Shard]:
        """Lists the shards of the corpus in its order, and removes all others.

        Raises:
            FileNotFoundError: One isn't there.
        """
        shards = [self._describe(name) for name in names]
        self._write_manifest(shards)
        for path in [*self.folder.glob("*.parquet"), *self.folder.glob(".*.tmp")]:
            if path.stem not in set(names) or path.suffix == ".tmp":
                path.unlink()
        for path in (self.folder / WAITING).iterdir():
            path.unlink()
        (self.folder / WAITING).rmdir()
        return shards

    def _waiting(self, name: str) -> Path:
        return self.folder / WAITING / f"{name}.jsonl"

    def _describe(self, name: str) -> Shard:
        found = import_parquet().read_metadata(self.path(name))
        return Shard(name, found.num_rows, int(found.metadata[NUM_VECTORS]))

    def _write_manifest(self, shards: Sequence[Shard] | None) -> None:
        listed = None if shards is None else [one._asdict() for one in shards]
        content = {"format": FORMAT, "settings": self.settings.to_dict(), "shards": listed}
        text = json.dumps(content, indent=1) + "\n"
        replace_file(self.folder / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `shards.json` says; a ValueError if it can't be read."""
    path = folder / MANIFEST
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ValueError("of another version")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}): encode into a new folder") from None
    return found


def read_shard(path: Path) -> Iterator[Document]:
    """Yields the documents of a shard; a ValueError if the file is damaged."""
    import pyarrow as pa

    try:
        table = import_parquet().read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} can't be read ({error}): encode the corpus again") from None
    return (document for _, document in read_rows(table))


def check_same(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises a ValueError that names a setting in which a folder's shards differ from those asked for."""
    for name, value in [*asked.items(), *asked["vectors"].items()]:
        known = there.get(name, there["vectors"].get(name))
        if name != "vectors" and known != value:
            if name == "checkpoint":
                raise ValueError(f"{folder} holds shards of another checkpoint: name a new folder")
            raise ValueError(
                f"{folder} holds shards with {name}={known!r}, got {value!r}: name a new folder"
            )
