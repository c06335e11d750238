"""An index's chunks in LanceDB, for more of them than one SQLite file is for, or for several machines.

LanceDB searches by words and by meaning itself; https://lancedb.github.io/lancedb/hybrid_search/hybrid_search/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.search.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "notes"
# Chunks that are written together, and from how many on vectors need an index of their own: LanceDB compares fewer
# one by one.
_BATCH, _INDEXED = 4096, 100_000


def write(
    rows: Iterable[Row], uri: str, dimension: int, *, table: str = TABLE, about: Mapping[str, str] | None = None
) -> int:
    """Write chunks that have vectors (D,) to a table, in place of what it held, as a stream. Returns how many.

    `uri` is a folder, or an object storage as LanceDB writes it (s3://bucket/path); `about` is kept with the
    table's schema. A table that is there serves its old version until the new one is whole. Raises InputError
    without LanceDB, MlxJinaError for a place that cannot be written to.
    """
    try:
        import lancedb
        import pyarrow as pa
        from lancedb.index import FTS, IvfPq
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; run: pip install 'mlx-jina[lancedb]'") from None
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("path", pa.string()),
            pa.field("line", pa.int32()),
            pa.field("start", pa.int64()),
            pa.field("stop", pa.int64()),
            pa.field("title", pa.string()),
            pa.field("heading", pa.string()),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimension)),
        ],
        metadata=dict(about or {}),
    )
    reader = pa.RecordBatchReader.from_batches(schema, _batches(rows, schema))
    try:
        written = lancedb.connect(uri).create_table(table, reader, schema=schema, mode="overwrite")
        count = int(written.count_rows())
        if count:
            written.create_index("text", config=FTS(), replace=True)
        if count >= _INDEXED:
            written.create_index("vector", config=IvfPq(distance_type="cosine"), replace=True)
    # LanceDB raises RuntimeError, ValueError and OSError, whatever its store says.
    except (RuntimeError, ValueError, OSError) as error:
        raise MlxJinaError(f"{uri}: LanceDB cannot write there: {str(error)[:300]}") from None
    return count


def _batches(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        if row.vector is None:
            continue
        values = (row.id, row.path, row.line, *row.span, row.title, row.heading, row.text, row.vector)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        if len(columns["id"]) == _BATCH:
            yield pa.RecordBatch.from_pydict(columns, schema)
            columns = {name: [] for name in schema.names}
    yield pa.RecordBatch.from_pydict(columns, schema)
