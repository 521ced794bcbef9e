"""LanceStore: a LanceDB table, embedded, in a folder or on object storage; one row a document.

The column `vectors` is a list of vectors a row, and LanceDB ranks rows by the best of them for a query of one
vector. It relies on the package lancedb; versions, tags and SQL are LanceDB's own, on `store.table`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from typing_extensions import Self

from ..index.filters import kind_of
from ..index.segment import Document
from ..modeling.search_fastlane import Encoder, FloatArray, check_counts
from .arrow import READ, SETTINGS, arrow_table, range_column, read_rows, schema_of
from .base import RETRIES, Store, asked_again, blocks, check_retries, not_there
from .lance_filters import LanceDialect
from .records import Record
from .settings import StoreSettings

LanceIndex: TypeAlias = Literal["IVF_RQ", "IVF_SQ", "IVF_FLAT", "IVF_HNSW_SQ"]

BEYOND = (
    4  # documents fetched beyond those asked for: sums of float16 may order near ties otherwise
)
EXACT_UP_TO = 100_000  # token vectors: below, `finish` builds no index, as `FastLaneIndex` doesn't
RQ_BITS = 3
CONFLICTS = 20  # times that a write is begun again since another one was committed first
KEYS_AT_ONCE = 1_000


@dataclass(frozen=True)
class LanceSearch:
    """How a table with an index is searched.

    Attributes:
        exact: Compare with every vector, without the index.
        nprobes: Clusters to look into; LanceDB's own number if None.
        refine_factor: Compare so many times more documents than asked for as they are stored.
    """

    exact: bool = False
    nprobes: int | None = None
    refine_factor: int = 10

    def __post_init__(self) -> None:
        check_counts(refine_factor=self.refine_factor)
        if self.nprobes is not None:
            check_counts(nprobes=self.nprobes)


class LanceStore(Store):
    """Documents in a LanceDB table.

    A write is one commit, all of it or nothing. Without an index a search is exact; `create_index` makes it
    faster and approximate.

    Attributes:
        table: LanceDB's own; its columns are `id`, `text`, `metadata` (JSON), `vectors`, `positions`,
            `windows` (JSON), `facts`, `digest`, and one for each metadata field and kind that filters can
            compare by order, such as `number:year`.
        how: How a table with an index is searched; put another `LanceSearch` here.
    """

    engine: ClassVar[str] = "LanceDB"

    def __init__(
        self,
        table: Any,
        address: str,
        settings: StoreSettings,
        encoder: Encoder | None,
        retries: int,
    ) -> None:
        self.table = table
        self.how = LanceSearch()
        super().__init__(address, settings, encoder, retries)

    @classmethod
    def create(
        cls,
        uri: str,
        settings: StoreSettings | int,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        **connection: Any,
    ) -> Self:
        """Creates a table.

        Args:
            uri: A folder, or an object storage's `s3://…`, `gs://…`, `az://…`.
            settings: What the vectors are, or their dimension alone, for float16 of unit length.
            name: Of the table.
            encoder: Encodes texts.
            retries: How often a call is repeated while the storage can't be reached.
            **connection: For `lancedb.connect`, such as `storage_options`.

        Raises:
            FileExistsError: There is a table of this name.
            ConnectionError: The storage can't be reached.
        """
        if isinstance(settings, int):
            settings = StoreSettings(settings, distance="cosine")
        address = address_of(uri, name)
        settings.check_encoder(encoder, address)
        import_lancedb()
        schema = schema_of(settings)

        def create() -> Any:
            database = connect(uri, connection)
            if name in table_names(database):
                raise FileExistsError(f"{address} is there already: open it, or name another")
            return database.create_table(name, schema=schema)

        table = asked_again(create, ERRORS, is_down, address, check_retries(retries))
        return cls(table, address, settings, encoder, retries)

    @classmethod
    def open(
        cls,
        uri: str,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        **connection: Any,
    ) -> Self:
        """Opens a table that `create` made; arguments are those of `create`.

        Raises:
            FileNotFoundError: There is no such table.
            ValueError: Something else made it, or the encoder is of another checkpoint or dimension.
            ConnectionError: The storage can't be reached.
        """
        address = address_of(uri, name)
        import_lancedb()

        def open_table() -> Any:
            if "://" in uri or Path(uri).exists():  # connecting to no folder makes one
                database = connect(uri, connection)
                if name in table_names(database):
                    return database.open_table(name)
            raise not_there(address)

        table = asked_again(open_table, ERRORS, is_down, address, check_retries(retries))
        settings = StoreSettings.from_json((table.schema.metadata or {}).get(SETTINGS), address)
        return cls(table, address, settings, encoder, retries)

    @property
    def dialect(self) -> LanceDialect:
        return LanceDialect(frozenset(self.table.schema.names))

    def create_index(
        self,
        kind: LanceIndex = "IVF_RQ",
        *,
        num_partitions: int | None = None,
        num_bits: int | None = None,
    ) -> None:
        """Builds LanceDB's index of the vectors, in place of one that is there.

        Args:
            kind: `IVF_RQ` is the smallest, `IVF_FLAT` finds most, see `docs/stores.md`.
            num_partitions: Clusters; LanceDB's own number if None.
            num_bits: Bits a dimension of `IVF_RQ`, 3 if None: LanceDB's own 1 finds less in the same time.

        Raises:
            ValueError: The store compares by dot product, the kind is unknown, or there are too few vectors.
        """
        if kind not in get_args(LanceIndex):
            known = ", ".join(map(repr, get_args(LanceIndex)))
            raise ValueError(f"kind must be one of {known}, got {kind!r}")
        if self.settings.distance != "cosine":
            raise ValueError(
                "LanceDB indexes lists of vectors by cosine only, and this store compares by dot product: "
                "create it with distance='cosine', for vectors of unit length"
            )
        if num_bits is not None and kind != "IVF_RQ":
            raise ValueError(
                f"num_bits applies to IVF_RQ, got {num_bits} with {kind}: leave it out"
            )
        if kind == "IVF_RQ" and num_bits is None:
            num_bits = RQ_BITS
        options: dict[str, Any] = {"distance_type": "cosine"}
        for name, value in (("num_partitions", num_partitions), ("num_bits", num_bits)):
            if value is not None:
                check_counts(**{name: value})
                options[name] = value
        import_lancedb()
        from lancedb.index import HnswSq, IvfFlat, IvfRq, IvfSq

        configs = {"IVF_RQ": IvfRq, "IVF_SQ": IvfSq, "IVF_FLAT": IvfFlat, "IVF_HNSW_SQ": HnswSq}
        config = configs[kind](**options)
        self._ask(lambda: self.table.create_index("vectors", config=config, replace=True))

    def finish(self) -> None:
        """Indexes ids and facts, and from some 100,000 vectors on the vectors; extends indexes there are."""

        def finish() -> bool:
            import_lancedb()
            from lancedb.index import BTree, LabelList

            indexed = {column for index in self.table.list_indices() for column in index.columns}
            for column, config in (("id", BTree()), ("facts", LabelList())):
                if column not in indexed and self.table.count_rows():
                    self.table.create_index(column, config=config)
            self.table.optimize()
            return "vectors" in indexed

        if self._ask(finish) or self.settings.distance == "dot":
            return
        if self.num_vectors() > EXACT_UP_TO:
            self.create_index()

    def num_vectors(self) -> int:
        """How many vectors all documents have together; reads their positions."""
        columns = self._ask(lambda: self.table.search().select(["positions"]).to_batches())
        return sum(len(batch["positions"].flatten()) for batch in columns)

    @property
    def is_indexed(self) -> bool:
        """Whether the vectors have an index, so that a search is approximate unless `how.exact`."""
        indexes = self._ask(lambda: self.table.list_indices())
        return any("vectors" in index.columns for index in indexes)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return ERRORS

    def _is_down(self, error: Exception) -> bool:
        return is_down(error)

    def _write(self, records: Sequence[Record]) -> None:
        for attempt in range(CONFLICTS + 1):
            try:
                return self._merge(records)
            except (RuntimeError, ValueError) as error:  # a column that is there is a ValueError
                words = ("conflict", "already exists", "Too many concurrent writers")
                if attempt == CONFLICTS or not any(word in str(error) for word in words):
                    raise
            time.sleep(random.uniform(0, min(1.0, 0.01 * 2**attempt)))  # writers drift apart

    def _merge(self, records: Sequence[Record]) -> None:
        self._add_range_columns(records)
        rows = arrow_table(records, self.settings, self.table.schema)
        merge = (
            self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        )
        merge.execute(rows)

    def _add_range_columns(self, records: Sequence[Record]) -> None:
        """Adds the columns that new metadata fields need."""
        import pyarrow as pa

        types = {"number": pa.float64(), "text": pa.string()}
        wanted = {
            range_column(field, kind_of(value)): types[kind_of(value)]
            for record in records
            for field, value in record.document.metadata.items()
            if kind_of(value) in types
        }
        self.table.checkout_latest()
        there = set(self.table.schema.names)
        new = [pa.field(name, wanted[name]) for name in sorted(wanted) if name not in there]
        if new:
            self.table.add_columns(new)

    def _remove(self, keys: Sequence[str]) -> None:
        self.table.delete(LanceDialect.keys(keys))

    def _documents(self, keys: Sequence[str]) -> dict[str, Document]:
        found: dict[str, Document] = {}
        for some in blocks(keys, KEYS_AT_ONCE):
            rows = self.table.search().where(LanceDialect.keys(some)).limit(len(some)).to_arrow()
            found |= dict(read_rows(rows))
        return found

    def _digests(self, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in blocks(keys, KEYS_AT_ONCE):
            query = self.table.search().where(LanceDialect.keys(some)).select(["id", "digest"])
            rows = query.limit(len(some)).to_arrow()
            found |= dict(zip(rows["id"].to_pylist(), rows["digest"].to_pylist(), strict=True))
        return found

    def _count(self, condition: Any) -> int:
        return int(self.table.count_rows(condition))

    def _nearest(
        self, view: FloatArray, limit: int, condition: Any, with_all: bool
    ) -> list[Document]:
        query = self.table.search(view, vector_column_name="vectors").limit(limit + BEYOND)
        if self.how.exact or self.settings.distance == "dot" or not self.is_indexed:
            query = query.distance_type("dot").bypass_vector_index()
        else:
            query = query.distance_type("cosine").refine_factor(self.how.refine_factor)
            if self.how.nprobes is not None:
                query = query.nprobes(self.how.nprobes)
        if condition is not None:
            query = query.where(condition, prefilter=True)
        return [one for _, one in read_rows(query.select([*READ, "_distance"]).to_arrow())]


ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError)


def is_down(error: Exception) -> bool:
    """Whether an error of LanceDB is one of its storage."""
    words = ("LanceError(IO)", "IO {", "Http(", "timed out")
    return any(word in str(error) for word in words)


def address_of(uri: str, name: str) -> str:
    """Names a table in errors."""
    return f"lancedb:{uri} (table {name})"


def table_names(database: Any) -> list[str]:
    """The names of a database's tables."""
    names: list[str] = []
    token = None
    while True:
        page = database.list_tables(page_token=token)
        names += page.tables
        token = page.page_token
        if not token:
            return names


def connect(uri: str, options: dict[str, Any]) -> Any:
    """A database whose tables see what other processes have committed."""
    return import_lancedb().connect(uri, **{"read_consistency_interval": timedelta(0), **options})


def import_lancedb() -> ModuleType:
    """The module `lancedb`, imported at first use."""
    try:
        import lancedb
    except ImportError as error:
        raise ImportError(
            'a LanceStore needs LanceDB: pip install "fastlane-st[lancedb]"'
        ) from error
    module: ModuleType = lancedb
    return module
