"""ParquetFolder: documents with their vectors in Parquet files, for tools that read those.

Each file holds so many documents in a row of the export, and a digest of them, so that an export that was
interrupted writes only what is missing or has changed. It relies on pyarrow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ..files import replace_file
from ..index.segment import Document
from .arrow import SETTINGS, arrow_table, schema_of
from .records import Record
from .settings import StoreSettings

DIGEST = b"fastlane_digest"


class ParquetFolder:
    """A folder of files `part-00000.parquet` and so on, filled in order.

    The columns are `id`, `text`, `metadata` (JSON), `windows` (JSON), `facts`, `digest`, `positions` and
    `vectors`; the settings are in each file's schema.

    Args:
        directory: New, empty, or of an earlier export.
        settings: What the vectors are.

    Raises:
        FileExistsError: The folder holds other files.
        ImportError: pyarrow isn't installed.
    """

    at_once = 10_000

    def __init__(self, directory: str | os.PathLike[str], settings: StoreSettings) -> None:
        import_parquet()
        self.folder = Path(directory)
        self.address = f"parquet:{directory}"
        self.settings = settings
        self._number = 0
        self._digest = ""
        if self.folder.exists():
            if not self.folder.is_dir():
                raise FileExistsError(f"{self.folder} is a file: name a folder")
            for path in self.folder.iterdir():
                if not path.name.startswith(("part-", ".part-")):
                    raise FileExistsError(
                        f"{self.folder} holds other files, as {path.name}: name a new folder"
                    )

    @classmethod
    def settings_in(cls, directory: str | os.PathLike[str]) -> StoreSettings | None:
        """The settings of an earlier export to a folder; None if it has none.

        Raises:
            FileExistsError: The folder has Parquet files of something else.
        """
        found = None
        for path in sorted(Path(directory).glob("part-*.parquet")):
            kept = metadata_of(path)
            if kept is None:  # half-written
                continue
            if SETTINGS not in kept or DIGEST not in kept:
                raise FileExistsError(f"{path} is of something else: name a new folder")
            found = found or StoreSettings.from_json(kept[SETTINGS], f"parquet:{directory}")
        return found

    def missing(self, digests: Mapping[str, str]) -> set[str]:
        """The keys of the next documents, or none if their file is there and the same."""
        hashed = hashlib.blake2b(self.settings.to_json().encode(), digest_size=16)
        for key, digest in digests.items():
            hashed.update(f"{len(key)}:{key}{digest}".encode())
        self._digest = hashed.hexdigest()
        if digests and self._stored_digest() == self._digest:
            self._number += 1
            return set()
        return set(digests)

    def record_of(self, document: Document, digest: str | None = None) -> Record:
        """Checks an encoded document."""
        return Record.of(document, self.settings, digest)

    def write(self, records: Sequence[Record]) -> None:
        """Writes the next file, whole or not at all."""
        parquet = import_parquet()
        self.folder.mkdir(parents=True, exist_ok=True)
        schema = schema_of(self.settings)
        schema = schema.with_metadata({**schema.metadata, DIGEST: self._digest.encode()})
        table = arrow_table(records, self.settings, schema)
        replace_file(self._path, lambda path: parquet.write_table(table, path))
        self._number += 1

    def finish(self) -> None:
        """Removes files of an earlier export beyond the last of this one."""
        while self._path.exists():
            self._path.unlink()
            self._number += 1
        for scratch in self.folder.glob(".part-*.tmp"):
            scratch.unlink()

    def close(self) -> None:
        """Nothing is open."""

    @property
    def _path(self) -> Path:
        return self.folder / f"part-{self._number:05d}.parquet"

    def _stored_digest(self) -> str | None:
        """The digest in the next file; None if it isn't there or can't be read."""
        kept = metadata_of(self._path) if self._path.exists() else None
        return None if kept is None else kept.get(DIGEST, b"").decode()


def metadata_of(path: Path) -> dict[bytes, bytes] | None:
    """The metadata of a Parquet file's schema; None if it can't be read."""
    parquet = import_parquet()
    import pyarrow as pa

    try:
        return parquet.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return None


def import_parquet() -> ModuleType:
    """The module `pyarrow.parquet`, imported at first use."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'Parquet files need pyarrow: pip install "fastlane-st[parquet]"'
        ) from error
    module: ModuleType = pyarrow.parquet
    return module
