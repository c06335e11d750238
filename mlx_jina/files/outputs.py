"""Formats of files with vectors: JSON lines, .npy, Parquet.

Each format also defines an unfinished file, which grows by appending and can be read at any time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlx_jina import durable
from mlx_jina.vectors import Vectors

# The label of a row: what it says of its vector, by the column's name.
Label = dict[str, str | int]

# Lines of JSON in one write.
LINES_PER_WRITE = 64
# Rows of a Parquet row group, at least.
GROUP_ROWS = 16_384

# Enough significant digits to read back every value exactly.
_DIGITS = {"float32": "%.9g", "float16": "%.5g"}


# The label of a text; and of a chunk: its text, and its place there in characters and in tokens.
LABELS: Mapping[str, type] = {"id": str, "file": str}
CHUNK_LABELS: Mapping[str, type] = {
    **LABELS,
    "document": int,
    "start": int,
    "end": int,
    "token_start": int,
    "token_end": int,
    "text": str,
}


class Format(Protocol):
    """One kind of output file. `columns` and `dtype` are those of every block of vectors.

    A label has keys and types of `labels`, not necessarily all: "id" and "file" are strings or missing.
    """

    def __init__(self, columns: int, dtype: np.dtype[Any], labels: Mapping[str, type] = LABELS) -> None: ...

    def header(self, rows: int) -> bytes:
        """The first bytes of an unfinished file of so many rows, always of the same length."""

    def block(self, start: int, labels: Sequence[Label], rows: Vectors) -> Iterator[bytes]:
        """The bytes to append for these rows, the first of which has the number `start`."""

    def finish(self, partial: Path, target: Path) -> None:
        """Turn the unfinished file, which is synced, into the finished one."""

    def reopen(self, target: Path) -> Iterator[bytes]:
        """The content of the unfinished file that `target` was."""


class JsonLines:
    """`{"index": 0, "id": "a7", "embedding": [0.1,...]}`, one object a line."""

    def __init__(self, columns: int, dtype: np.dtype[Any], labels: Mapping[str, type] = LABELS) -> None:
        self._numbers = "[" + ",".join([_DIGITS.get(dtype.name, "%d")] * columns) + "]"

    def header(self, rows: int) -> bytes:
        """Nothing."""
        return b""

    def block(self, start: int, labels: Sequence[Label], rows: Vectors) -> Iterator[bytes]:
        """Whole lines."""
        for first in range(0, len(labels), LINES_PER_WRITE):
            part = slice(first, first + LINES_PER_WRITE)
            lines = []
            for i, (label, row) in enumerate(zip(labels[part], rows[part], strict=True), start + first):
                numbers = self._numbers % tuple(row.tolist())
                lines.append(f'{json.dumps({"index": i, **label})[:-1]}, "embedding": {numbers}}}\n')
            yield "".join(lines).encode()

    def finish(self, partial: Path, target: Path) -> None:
        """Nothing but the name changes."""
        durable.replace(partial, target)

    def reopen(self, target: Path) -> Iterator[bytes]:
        """All of it."""
        return _content(target)


class Npy:
    """NumPy's own format: vectors only, in the order of the texts."""

    def __init__(self, columns: int, dtype: np.dtype[Any], labels: Mapping[str, type] = LABELS) -> None:
        self._columns, self._dtype = columns, dtype

    def header(self, rows: int) -> bytes:
        """NumPy's header, padded so that the number of rows can grow in place."""
        buffer = io.BytesIO()
        description = np.lib.format.dtype_to_descr(self._dtype)
        shape = {"descr": description, "fortran_order": False, "shape": (rows, self._columns)}
        np.lib.format.write_array_header_1_0(buffer, shape)
        return buffer.getvalue()

    def block(self, start: int, labels: Sequence[Label], rows: Vectors) -> Iterator[bytes]:
        """The rows as they lie in memory."""
        yield np.ascontiguousarray(rows).tobytes()

    def finish(self, partial: Path, target: Path) -> None:
        """Nothing but the name changes."""
        durable.replace(partial, target)

    def reopen(self, target: Path) -> Iterator[bytes]:
        """All of it."""
        return _content(target)


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


class Parquet:
    """Columns `index`, one for each key of labels (null where a label lacks it), and `embedding` of fixed width.

    A Parquet file cannot be read before its end is written, so the unfinished one is a stream of Arrow record
    batches (`pyarrow.ipc.open_stream`).
    """

    def __init__(self, columns: int, dtype: np.dtype[Any], labels: Mapping[str, type] = LABELS) -> None:
        import pyarrow as pa

        self._labels = labels
        kinds = {str: pa.string(), int: pa.int64()}
        fields = {"index": pa.int64(), **{name: kinds[kind] for name, kind in labels.items()}}
        fields["embedding"] = pa.list_(pa.from_numpy_dtype(dtype), columns)
        self._schema = pa.schema(list(fields.items()))

    def header(self, rows: int) -> bytes:
        """The schema message of an Arrow stream."""
        return bytes(self._schema.serialize())

    def block(self, start: int, labels: Sequence[Label], rows: Vectors) -> Iterator[bytes]:
        """One record batch as a message."""
        import pyarrow as pa

        columns = [pa.array(range(start, start + len(labels)), pa.int64())]
        for name, kind in self._labels.items():
            values = [None if (value := label.get(name)) is None else kind(value) for label in labels]
            columns.append(pa.array(values, self._schema.field(name).type))
        kind = self._schema.field("embedding").type
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind))
        yield bytes(pa.record_batch(columns, schema=self._schema).serialize())

    def finish(self, partial: Path, target: Path) -> None:
        """Rewrite the stream as Parquet, a row group at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        converted = Path(f"{partial}.parquet")
        with pa.ipc.open_stream(str(partial)) as stream, pq.ParquetWriter(converted, self._schema) as writer:
            group: list[Any] = []
            for batch in stream:
                group.append(batch)
                if sum(part.num_rows for part in group) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(group))
                    group = []
            if group:
                writer.write_table(pa.Table.from_batches(group))
        durable.sync_path(converted)
        durable.replace(converted, target)
        partial.unlink()
        durable.sync_path(target.parent)

    def reopen(self, target: Path) -> Iterator[bytes]:
        """The stream of its rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        yield self.header(0)
        with pq.ParquetFile(target) as file:
            for batch in file.iter_batches(GROUP_ROWS):
                yield bytes(pa.record_batch(batch.columns, schema=self._schema).serialize())


FORMATS: dict[str, type[Format]] = {".npy": Npy, ".jsonl": JsonLines, ".parquet": Parquet}
