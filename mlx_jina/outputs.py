"""What vectors look like in a file: JSON lines, .npy, Parquet.

Each format also says what its unfinished file holds, which grows by appending and can be read at any time.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlx_jina.inputs import Record
from mlx_jina.vectors import Vectors

# Lines of JSON handed to the system in one write.
LINES_PER_WRITE = 64
# Rows of a Parquet row group, at least.
GROUP_ROWS = 16_384

# Significant digits that bring back every value exactly.
_DIGITS = {"float32": "%.9g", "float16": "%.5g"}


class Format(Protocol):
    """One kind of output file. `columns` and `dtype` are those of every block of vectors."""

    def __init__(self, columns: int, dtype: np.dtype[Any]) -> None: ...

    def header(self, rows: int) -> bytes:
        """What an unfinished file of so many rows starts with; the length is always the same."""

    def block(self, start: int, records: Sequence[Record], rows: Vectors) -> Iterator[bytes]:
        """What to append for these rows, the first of which is row `start`."""

    def finish(self, partial: Path, target: Path) -> None:
        """Make the finished file of an unfinished one."""


class JsonLines:
    """`{"index": 0, "id": "a7", "embedding": [0.1,...]}`, one object a line."""

    def __init__(self, columns: int, dtype: np.dtype[Any]) -> None:
        self._numbers = "[" + ",".join([_DIGITS.get(dtype.name, "%d")] * columns) + "]"

    def header(self, rows: int) -> bytes:
        """Nothing."""
        return b""

    def block(self, start: int, records: Sequence[Record], rows: Vectors) -> Iterator[bytes]:
        """Whole lines."""
        for first in range(0, len(records), LINES_PER_WRITE):
            part = slice(first, first + LINES_PER_WRITE)
            lines = []
            for i, (record, row) in enumerate(zip(records[part], rows[part], strict=True), start + first):
                keys: dict[str, str | int] = {"index": i}
                keys.update([record.label] if record.label else [])
                numbers = self._numbers % tuple(row.tolist())
                lines.append(f'{json.dumps(keys)[:-1]}, "embedding": {numbers}}}\n')
            yield "".join(lines).encode()

    def finish(self, partial: Path, target: Path) -> None:
        """Nothing but the name changes."""
        os.replace(partial, target)


class Npy:
    """NumPy's own format: vectors only, in the order of the texts."""

    def __init__(self, columns: int, dtype: np.dtype[Any]) -> None:
        self._columns, self._dtype = columns, dtype

    def header(self, rows: int) -> bytes:
        """NumPy pads it so that the number of rows can grow in place."""
        buffer = io.BytesIO()
        description = np.lib.format.dtype_to_descr(self._dtype)
        shape = {"descr": description, "fortran_order": False, "shape": (rows, self._columns)}
        np.lib.format.write_array_header_1_0(buffer, shape)
        return buffer.getvalue()

    def block(self, start: int, records: Sequence[Record], rows: Vectors) -> Iterator[bytes]:
        """The rows as they lie in memory."""
        yield np.ascontiguousarray(rows).tobytes()

    def finish(self, partial: Path, target: Path) -> None:
        """Nothing but the name changes."""
        os.replace(partial, target)


class Parquet:
    """Columns `index`, `id` and `file` (null where an input has none), and `embedding` of fixed width.

    A Parquet file cannot be read before its end is written, so the unfinished one is a stream of Arrow record
    batches (`pyarrow.ipc.open_stream`).
    """

    def __init__(self, columns: int, dtype: np.dtype[Any]) -> None:
        import pyarrow as pa

        text, values = pa.string(), pa.list_(pa.from_numpy_dtype(dtype), columns)
        fields = {"index": pa.int64(), "id": text, "file": text, "embedding": values}
        self._schema = pa.schema(list(fields.items()))

    def header(self, rows: int) -> bytes:
        """The schema message of an Arrow stream."""
        return bytes(self._schema.serialize())

    def block(self, start: int, records: Sequence[Record], rows: Vectors) -> Iterator[bytes]:
        """One record batch as a message."""
        import pyarrow as pa

        labels = [dict([record.label] if record.label else []) for record in records]
        names = [[None if (v := label.get(key)) is None else str(v) for label in labels] for key in ("id", "file")]
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=self._schema[3].type)
        index = pa.array(range(start, start + len(records)), pa.int64())
        columns = [index, *(pa.array(column, pa.string()) for column in names), embedding]
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
        os.replace(converted, target)
        partial.unlink()


FORMATS: dict[str, type[Format]] = {".npy": Npy, ".jsonl": JsonLines, ".parquet": Parquet}
