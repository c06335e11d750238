"""The GGUF container: header, metadata and tensor table, read by memory map and written one tensor at a time.

Reading is our own: `gguf.GGUFReader` takes seconds for a large vocabulary, and MLX's reader corrupts Q4_K,
narrows BF16 to F16 and drops tensors of types it does not know.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from mlx_jina import durable
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import json_file

Bytes = npt.NDArray[np.uint8]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
# In the arrays of a header: what the largest vocabularies have, a few times over.
MAX_NUMBERS = 1 << 22
_SCALARS = {
    Value.UINT8: "B",
    Value.INT8: "b",
    Value.UINT16: "H",
    Value.INT16: "h",
    Value.UINT32: "I",
    Value.INT32: "i",
    Value.FLOAT32: "f",
    Value.UINT64: "Q",
    Value.INT64: "q",
    Value.FLOAT64: "d",
}


@dataclass(frozen=True)
class Entry:
    """One row of the tensor table. `shape` is in the order of PyTorch, `offset` counts from the file's start."""

    name: str
    type: Type
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def nbytes(kind: Type, shape: Sequence[int]) -> int | None:
    """Size of a tensor, or None if its rows are not whole blocks."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        return None
    return prod(shape) // block * int(size)


class _Cursor:
    """Reads forward through the map. A field that would end behind the file is an error that names the field."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at, self.size = data, path, 0, len(data)
        self.numbers = 0

    def refuse(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {reason}; the file is damaged or not a GGUF model")

    def _need(self, count: int, what: str) -> int:
        start = self.at
        if count > self.size - start:
            raise self.refuse(f"it ends inside {what} (byte {start} of {self.size})")
        self.at = start + count
        return start

    def scalar(self, code: str, what: str) -> Any:
        start = self._need(struct.calcsize(f"<{code}"), what)
        return struct.unpack_from(f"<{code}", self.data, start)[0]

    def text(self, what: str) -> str:
        length = self.scalar("Q", what)
        start = self._need(length, what)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse(f"{what} is not valid UTF-8") from None

    def texts(self, count: int, what: str) -> list[str]:
        # One loop without calls, because a vocabulary has hundreds of thousands of strings.
        if count > (self.size - self.at) // 8:
            raise self.refuse(f"{what} claims {count} strings")
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        out: list[str] = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + unpack(data, at)[0]
                if at > size:
                    raise self.refuse(f"it ends inside {what}")
                out.append(data[start:at].decode("utf-8"))
        except UnicodeDecodeError:
            raise self.refuse(f"{what} holds a string that is not valid UTF-8") from None
        except struct.error:
            raise self.refuse(f"it ends inside {what}") from None
        self.at = at
        return out

    def kind(self, what: str) -> Value:
        number = self.scalar("I", what)
        try:
            return Value(number)
        except ValueError:
            raise self.refuse(f"{what} has the unknown type {number}") from None

    def value(self, kind: Value, what: str) -> Any:
        if kind is Value.STRING:
            return self.text(what)
        if kind is Value.BOOL:
            return self.scalar("B", what) != 0
        if kind is not Value.ARRAY:
            return self.scalar(_SCALARS[kind], what)
        inner, count = self.kind(what), self.scalar("Q", what)
        if inner is Value.STRING:
            return self.texts(count, what)
        if inner is Value.ARRAY:
            raise self.refuse(f"{what} is an array of arrays, which no model uses")
        code = "B" if inner is Value.BOOL else _SCALARS[inner]
        start = self._need(count * struct.calcsize(f"<{code}"), what)
        numbers = np.frombuffer(self.data, np.dtype(f"<{code}" if code not in "Bb" else code), count, start)
        self.numbers += count
        # A list takes ten times the file's bytes.
        return numbers.tolist() if self.numbers <= MAX_NUMBERS else numbers


class GGUF:
    """An open .gguf: `metadata` by key, `entries` by tensor name, raw bytes on request. Never written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if not self.size:
                raise CheckpointError(f"{path} is empty")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._data, path)
        tensors, pairs = self._header(cursor)
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = cursor.text("a metadata key")
            what = f"metadata {key!r}"
            if key in self.metadata:
                raise cursor.refuse(f"{what} is there twice")
            self.metadata[key] = cursor.value(cursor.kind(what), what)
        self.entries: dict[str, Entry] = self._table(cursor, tensors)

    def _header(self, cursor: _Cursor) -> tuple[int, int]:
        if self._data[:4] != MAGIC:
            if (words := json_file.impostor(self.path)) is not None:
                raise CheckpointError(f"{self.path} {words}")
            whole = "; of a model in several files, load the folder" if self.path.suffix != ".gguf" else ""
            raise CheckpointError(f"{self.path} is not a GGUF file: it starts with {self._data[:4]!r}{whole}")
        cursor.at = 4
        version = cursor.scalar("I", "the version")
        if version not in VERSIONS:
            raise CheckpointError(f"{self.path}: GGUF version {version} is not one of 2, 3 (little endian)")
        tensors, pairs = cursor.scalar("Q", "the tensor count"), cursor.scalar("Q", "the metadata count")
        # The shortest possible entries: 24 bytes for a tensor, 13 for a pair.
        if tensors > cursor.size // 24 or pairs > cursor.size // 13:
            raise cursor.refuse(f"its header claims {tensors} tensors and {pairs} metadata keys")
        return tensors, pairs

    def _table(self, cursor: _Cursor, count: int) -> dict[str, Entry]:
        alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment % 8:
            raise cursor.refuse(f"metadata 'general.alignment' is {alignment!r}")
        entries: dict[str, Entry] = {}
        for _ in range(count):
            entry = self._entry(cursor, alignment)
            if entry.name in entries:
                raise cursor.refuse(f"tensor {entry.name!r} is there twice")
            entries[entry.name] = entry
        # Offsets in the table count from the end of the table.
        start = -(-cursor.at // alignment) * alignment
        entries = {name: replace(entry, offset=start + entry.offset) for name, entry in entries.items()}
        self._check_places(cursor, entries.values())
        return entries

    def _entry(self, cursor: _Cursor, alignment: int) -> Entry:
        """The next row of the table, with the offset that it says."""
        name = cursor.text("a tensor name")
        what = f"tensor {name!r}"
        dimensions = cursor.scalar("I", what)
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise cursor.refuse(f"{what} has {dimensions} dimensions")
        shape = tuple(cursor.scalar("Q", what) for _ in range(dimensions))[::-1]
        number, offset = cursor.scalar("I", what), cursor.scalar("Q", what)
        try:
            kind = Type(number)
        except ValueError:
            raise CheckpointError(
                f"{self.path}: {what} has the tensor type {number}, which the installed gguf package does not "
                "know; a newer one may (pip install -U gguf)"
            ) from None
        size = nbytes(kind, shape)
        if not size:
            raise cursor.refuse(f"{what} of type {kind.name} cannot have the shape {shape}")
        if offset % alignment:
            raise cursor.refuse(f"{what} starts at {offset}, which is not a multiple of {alignment}")
        return Entry(name, kind, shape, offset, size)

    def _check_places(self, cursor: _Cursor, entries: Iterable[Entry]) -> None:
        """Refuse tensors that overlap, or that end behind the file."""
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.offset):
            if entry.offset + entry.nbytes > self.size:
                raise cursor.refuse(
                    f"tensor {entry.name!r} needs bytes up to {entry.offset + entry.nbytes}, but the file ends at "
                    f"{self.size}"
                )
            if entry.offset < end:
                raise cursor.refuse(f"tensor {entry.name!r} overlaps another one")
            end = entry.offset + entry.nbytes

    def raw(self, name: str) -> Bytes:
        """A tensor's bytes as they lie in the file, (rows, bytes of a row), not copied."""
        entry = self.entries[name]
        flat = np.frombuffer(self._data, np.uint8, entry.nbytes, entry.offset)
        return flat.reshape(prod(entry.shape[:-1]), -1)

    def get(
        self, key: str, kind: type | tuple[type, ...], default: Any = None, *, required: bool | None = None
    ) -> Any:
        """Metadata of a checked type. A missing key is an error if `required`, and where there is no default."""
        if key not in self.metadata:
            if default is None if required is None else required:
                raise CheckpointError(f"{self.path} lacks the metadata {key!r}")
            return default
        value = self.metadata[key]
        if isinstance(value, np.ndarray):
            raise CheckpointError(f"{self.path}: metadata {key!r} has {value.size} numbers, more than any model's")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.path}: metadata {key!r} is {str(value)[:60]!r}, of the wrong type")
        return value


@dataclass(frozen=True)
class Output:
    """One tensor to write: `make` gives its bytes when their turn comes, so that only one is in memory."""

    name: str
    type: Type
    shape: tuple[int, ...]
    make: Callable[[], npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        size = nbytes(self.type, self.shape)
        if size is None:
            raise CheckpointError(
                f"tensor {self.name!r} of type {self.type.name} cannot have the shape {self.shape}"
            )
        return size


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        (writer.add_int32 if value < 0 else writer.add_uint32 if value < 1 << 32 else writer.add_uint64)(
            key, value
        )
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        # Bytes become an array of them.
        writer.add_array(key, value if isinstance(value, bytes) else list(value))


@dataclass(frozen=True)
class File:
    """A .gguf to write."""

    target: Path
    architecture: str
    metadata: Mapping[str, Any]
    outputs: Sequence[Output]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def beside(self) -> Path:
        """Where the file lies until it is whole."""
        return self.target.with_name(f"{self.target.name}.partial")


def write(files: Sequence[File], advance: Callable[[int], object] = lambda _: None) -> None:
    """Write files beside their targets, tensor after tensor, and move them to their targets once all are whole.

    `advance` is called with each tensor's bytes.
    """
    try:
        for file in files:
            _write(file, advance)
        for file in files:
            durable.replace(file.beside, file.target)
    except BaseException:
        for file in files:
            file.beside.unlink(missing_ok=True)
        raise


def _write(new: File, advance: Callable[[int], object]) -> None:
    writer = gguf.GGUFWriter(None, new.architecture)
    for key, value in new.metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for output in new.outputs:
        # Given a raw type with the true shape, the writer does not infer a type from an array.
        writer.add_tensor_info(
            output.name, output.shape, np.dtype(np.float32), output.nbytes, raw_dtype=output.type
        )
    try:
        writer.write_header_to_file(new.beside)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for file in writer.fout or ():
            _write_tensors(file, new.outputs, advance)
            durable.sync(file.fileno())
            file.close()
    except OSError as error:
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(new.target)) from error
    finally:
        for file in writer.fout or ():
            # After a full disk closing flushes, and fails, once more; the first error is the one to report.
            with suppress(OSError):
                file.close()


def _write_tensors(file: BinaryIO, outputs: Sequence[Output], advance: Callable[[int], object]) -> None:
    # GGUFWriter would write by ndarray.tofile, whose errors have no errno.
    for output in outputs:
        file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
        data = np.ascontiguousarray(output.make())
        if data.nbytes != output.nbytes:
            raise CheckpointError(f"{output.name} came out as {data.nbytes} bytes, not {output.nbytes}")
        file.write(data.reshape(-1).view(np.uint8).data)
        advance(output.nbytes)
    file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
    file.flush()
