"""Where the texts of `mlx-jina encode` come from: arguments, lines, .txt, .jsonl, .csv, documents, folders.

Everything is read as a stream. A mistake in an input is an InputError that names the file and the line.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mlx_jina.errors import InputError, some

STDIN = "-"
DEFAULT_FIELD = "text"
LINES, JSON_LINES, TABLES, DOCUMENTS = (".txt",), (".jsonl", ".ndjson"), (".csv",), (".md",)
FOLDER_DOCUMENTS = (".md", ".txt")

_BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """A text, its label in the input, such as `("id", "a7")` or `("file", "notes/a.md")`, and its origin."""

    text: str
    label: tuple[str, str | int] | None = None
    source: str = ""
    line: int = 0

    @property
    def origin(self) -> str:
        """File and line in words; empty for a text from the command line."""
        return f"{self.source}, line {self.line}" if self.line else self.source


def check(paths: Sequence[str], field: str | None) -> None:
    """Raise InputError for an input that does not exist, cannot be read, or has no use for `field`."""
    for path in paths:
        if path == STDIN or os.path.isdir(path):
            continue
        if not os.path.exists(path):
            raise InputError(f"{path} does not exist")
        if _suffix(path) not in (*LINES, *JSON_LINES, *TABLES, *DOCUMENTS):
            raise InputError(
                f"{path} is none of the inputs that can be read: .txt (a text a line), .jsonl, .csv, .md (one "
                "text), or a folder of .md and .txt files"
            )
    if field is not None and not any(_suffix(path) in (*JSON_LINES, *TABLES) for path in paths):
        raise InputError(f"--field {field} needs a .jsonl or .csv file as --input")


def from_arguments(texts: Iterable[str]) -> Iterator[Record]:
    """One record for each argument."""
    return map(Record, texts)


def from_paths(paths: Iterable[str], field: str | None) -> Iterator[Record]:
    """The texts of files and folders one after another; `-` is standard input."""
    for path in paths:
        if path == STDIN:
            yield from _lines(sys.stdin.buffer, "standard input")
        elif os.path.isdir(path):
            yield from map(_document, _checked_folder(path))
        elif _suffix(path) in DOCUMENTS:
            yield _document(path)
        else:
            with open(path, "rb") as file:
                if _suffix(path) in LINES:
                    yield from _lines(file, path)
                elif _suffix(path) in JSON_LINES:
                    yield from _json_lines(file, path, field or DEFAULT_FIELD)
                else:
                    yield from _table(file, path, field or DEFAULT_FIELD)


def count(paths: Iterable[str]) -> int | None:
    """How many texts the inputs have, or None where only parsing would tell."""
    total = 0
    for path in paths:
        if path == STDIN or _suffix(path) in TABLES:
            return None
        if os.path.isdir(path):
            total += sum(1 for _ in _folder(path))
        elif _suffix(path) in DOCUMENTS:
            total += 1
        else:
            total += _count_lines(path)
    return total


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _count_lines(path: str) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _decode(raw: bytes, source: str, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise InputError(
            f"{source}, line {line}: byte 0x{raw[error.start]:02x} is not valid UTF-8; convert the file first, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None


def _decoded_lines(file: BinaryIO, source: str) -> Iterator[str]:
    """Lines with their ends. Only newlines count, so that numbers agree with those of other tools."""
    for number, raw in enumerate(file, 1):
        yield _decode(raw.removeprefix(_BOM) if number == 1 else raw, source, number)


def _lines(file: BinaryIO, source: str) -> Iterator[Record]:
    """Every line is a text, blank ones too: the index of a vector is its line number less one."""
    for number, line in enumerate(_decoded_lines(file, source), 1):
        yield Record(line.removesuffix("\n").removesuffix("\r"), None, source, number)


def _json_lines(file: BinaryIO, source: str, field: str) -> Iterator[Record]:
    """One JSON object for each line; blank lines are skipped."""
    for number, line in enumerate(_decoded_lines(file, source), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: JSON that cannot be read ({error})") from None
        if not isinstance(content, dict):
            raise InputError(f"{where}: a JSON object is needed, this is {_kind(content)}")
        if field not in content:
            raise InputError(f"{where}: no field {field!r} ({_found(content)}); choose one with --field")
        if not isinstance(content[field], str):
            raise InputError(f"{where}: field {field!r} must be a string, this is {_kind(content[field])}")
        name = content.get("id")
        if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
            raise InputError(f'{where}: "id" must be a string or a whole number, this is {_kind(name)}')
        if isinstance(name, str) and not name.isascii():
            _check_unicode(name, where)
        yield Record(content[field], None if name is None else ("id", name), source, number)


def _check_unicode(name: str, where: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f'{where}: "id" holds half a character ({name!a}), which no output can') from None


def _table(file: BinaryIO, source: str, field: str) -> Iterator[Record]:
    """CSV with a header row. Quoted fields may hold newlines; blank lines are skipped."""
    csv.field_size_limit(sys.maxsize)
    # Strict, or an unclosed quote would swallow the rest of the file as one text.
    reader = csv.reader(_decoded_lines(file, source), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{source}, line {line}: not valid CSV ({error})") from None
        if row is None:
            break
        if header is None and row:
            header = row
            if field not in header:
                raise InputError(
                    f"{source}, line {line}: no column {field!r} ({_found(header)}); choose one with --field"
                )
            column = header.index(field)
            named = header.index("id") if "id" in header else None
        elif row:
            if len(row) <= max(column, named or 0):
                raise InputError(
                    f"{source}, line {line}: {len(row)} columns, but the header has {len(header or [])}"
                )
            yield Record(row[column], None if named is None else ("id", row[named]), source, line)
        line = reader.line_num + 1
    if header is None:
        raise InputError(f"{source} is empty; a .csv file needs a header row that names its columns")


def _folder(path: str) -> Iterator[str]:
    """Every .md and .txt file below, in the order of the names; hidden files and folders are skipped."""
    with os.scandir(path) as listing:
        entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _folder(entry.path)
        elif entry.is_file() and _suffix(entry.name) in FOLDER_DOCUMENTS:
            yield entry.path


def _checked_folder(path: str) -> Iterator[str]:
    documents = _folder(path)
    first = next(documents, None)
    if first is None:
        raise InputError(f"{path} holds no .md or .txt file")
    yield first
    yield from documents


def _document(path: str) -> Record:
    """A whole file as one text, with newlines as the only line ends."""
    # Names that are not UTF-8 are legal on Linux, but not in JSON or Parquet.
    name = os.fsencode(path).decode("utf-8", "replace")
    raw = Path(path).read_bytes().removeprefix(_BOM)
    return Record(_decode(raw, name, 1).replace("\r\n", "\n"), ("file", name), name)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _found(names: Iterable[str]) -> str:
    return f"it has: {some(names) or 'none'}"
