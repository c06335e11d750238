"""Where the texts of `mlx-jina encode` come from: arguments, lines, JSON, tables, documents, folders.

Everything is read as a stream. A mistake in an input is an InputError that names the file and the line.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mlx_jina.errors import InputError, some
from mlx_jina.files.decode import decode
from mlx_jina.files.decode import lines as decoded_lines
from mlx_jina.vision import images, pdf
from mlx_jina.vision.resize import Pixels

STDIN = "-"
DEFAULT_FIELD = "text"
LINES, JSON_LINES, ARRAYS, TABLES = (".txt",), (".jsonl", ".ndjson"), (".json",), (".csv", ".tsv")
DOCUMENTS = (".md", ".markdown")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PAGES = (".pdf",)
FIELDS = (*JSON_LINES, *ARRAYS, *TABLES)
FOLDER_DOCUMENTS = (*DOCUMENTS, ".txt")
# Bytes of a .json file, at most.
LARGEST_ARRAY = 256 << 20
# What may stand between the columns of a .csv file: some countries' programs write the second.
_DELIMITERS = (",", ";", "\t")
# The line by which Excel is told.
_TOLD = re.compile(r'"?sep=(.)"?\r?\n?')

# Is told of a note that is left out: its path, and why.
Skipped = Callable[[str, str], object]


class Record(NamedTuple):
    """A text or picture, its label in the input, such as `("id", "a7")` or `("file", "a.md")`, and its origin."""

    text: str
    label: tuple[str, str | int] | None = None
    source: str = ""
    line: int = 0
    picture: bytes | Pixels | None = None
    """The file of a picture, or the pixels of a page, which have no text."""

    @property
    def origin(self) -> str:
        """File and line in words; empty for a text from the command line."""
        return f"{self.source}, line {self.line}" if self.line else self.source


def check(paths: Sequence[str], field: str | None, *, pictures: bool = True) -> None:
    """Raise InputError for an input that does not exist, cannot be read, or has no use for `field`.

    `pictures`: whether those are inputs, too.
    """
    known = (*LINES, *FIELDS, *DOCUMENTS, *((*PICTURES, *PAGES) if pictures else ()))
    for path in paths:
        if path == STDIN or os.path.isdir(path):
            continue
        if not path:
            raise InputError("the name of an input (--input) is empty")
        if not os.path.exists(path):
            raise InputError(f"{path} does not exist")
        if _suffix(path) not in known:
            also = ("a picture, .pdf, ", " or pictures") if pictures else ("", "")
            raise InputError(
                f"{path} is none of the inputs that can be read: .txt (a text a line), .jsonl, .json, .csv, .tsv, "
                f".md (one text), {also[0]}or a folder of .md and .txt files{also[1]}"
            )
    if field is not None and not any(_suffix(path) in FIELDS for path in paths):
        raise InputError(f"--field {field} needs a .jsonl, .json, .csv or .tsv file as --input")


def from_arguments(texts: Iterable[str]) -> Iterator[Record]:
    """One record for each argument."""
    return map(Record, texts)


def from_paths(
    paths: Iterable[str], field: str | None, skipped: Skipped | None = None, *, pictures: bool = False
) -> Iterator[Record]:
    """The texts and pictures of files and folders one after another; `-` is standard input.

    With `skipped`, notes of a folder that cannot be read are left out. `pictures`: also those of folders are read.
    """
    for path in paths:
        if path == STDIN:
            yield from _lines(sys.stdin.buffer, "standard input")
        elif os.path.isdir(path):
            yield from _notes(path, skipped, pictures)
        elif _suffix(path) in PICTURES:
            yield _picture(path)
        elif _suffix(path) in PAGES:
            yield from _pages(path)
        elif _suffix(path) in DOCUMENTS:
            yield _document(path)
        else:
            with open(path, "rb") as file:
                if _suffix(path) in LINES:
                    yield from _lines(file, path)
                elif _suffix(path) in JSON_LINES:
                    yield from _json_lines(file, path, field or DEFAULT_FIELD)
                elif _suffix(path) in ARRAYS:
                    yield from _array(file, path, field or DEFAULT_FIELD)
                else:
                    yield from _table(file, path, field or DEFAULT_FIELD)


def count(paths: Iterable[str], *, pictures: bool = False) -> int | None:
    """How many texts and pictures the inputs have, or None where only parsing would tell."""
    total = 0
    for path in paths:
        if path == STDIN or _suffix(path) in (*ARRAYS, *TABLES, *PAGES):
            return None
        if os.path.isdir(path):
            for each in _folder(path, _in_folders(pictures)):
                if _suffix(each) in PAGES:
                    return None
                total += 1
        elif _suffix(path) in (*DOCUMENTS, *PICTURES):
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


def _lines(file: BinaryIO, source: str) -> Iterator[Record]:
    """Every line is a text, blank ones too: the index of a vector is its line number less one."""
    for number, line in enumerate(decoded_lines(file, source), 1):
        yield Record(line.removesuffix("\n").removesuffix("\r"), None, source, number)


def _json_lines(file: BinaryIO, source: str, field: str) -> Iterator[Record]:
    """One JSON object for each line; blank lines are skipped."""
    for number, line in enumerate(decoded_lines(file, source), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: JSON that cannot be read ({error})") from None
        yield _record(content, field, where, Record("", None, source, number))


def _record(content: Any, field: str, where: str, empty: Record) -> Record:
    """The text and the id of a JSON object. Raises InputError, which begins with `where`."""
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
    return empty._replace(text=content[field], label=None if name is None else ("id", name))


def _array(file: BinaryIO, source: str, field: str) -> Iterator[Record]:
    """One JSON array, of strings or of objects. It is read as a whole, and so may not be of any size."""
    raw = file.read(LARGEST_ARRAY + 1)
    if len(raw) > LARGEST_ARRAY:
        raise InputError(
            f"{source} has more than {LARGEST_ARRAY >> 20} MB; write it as .jsonl, one object a line, which is "
            "read as a stream"
        )
    try:
        content = json.loads(decode(raw, source, 1))
    except json.JSONDecodeError as error:
        lines = "; if each line is an object, call it .jsonl" if error.msg == "Extra data" else ""
        raise InputError(f"{source}, line {error.lineno}: not valid JSON ({error.msg}{lines})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: JSON that cannot be read ({error})") from None
    if not isinstance(content, list):
        raise InputError(f"{source}: an array of texts or of objects is needed, this is {_kind(content)}")
    for number, item in enumerate(content, 1):
        record = Record("", None, f"{source}, item {number}")
        yield record._replace(text=item) if isinstance(item, str) else _record(item, field, record.origin, record)


def _check_unicode(name: str, where: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f'{where}: "id" holds half a character ({name!a}), which no output can') from None


def _table(file: BinaryIO, source: str, field: str) -> Iterator[Record]:
    """CSV or TSV with a header row. Quoted fields may hold newlines; blank lines are skipped."""
    csv.field_size_limit(sys.maxsize)
    lines = decoded_lines(file, source)
    first = next(lines, "")
    skipped = 0
    if told := _TOLD.fullmatch(first):
        skipped, first = 1, next(lines, "")
    delimiter = told[1] if told else "\t" if _suffix(source) == ".tsv" else _delimiter(first, field)
    # Strict, or an unclosed quote would swallow the rest of the file as one text.
    reader = csv.reader(chain([first], lines), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    line = 1 + skipped
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
            if header.count(field) > 1:
                raise InputError(f"{source}, line {line}: there are {header.count(field)} columns {field!r}")
            column = header.index(field)
            named = header.index("id") if "id" in header else None
        elif row:
            names = len(header or [])
            if len(row) <= max(column, named or 0):
                raise InputError(f"{source}, line {line}: {len(row)} columns, but the header has {names}")
            # Programs that write empty columns at the end leave them out of the header.
            if any(row[names:]):
                raise InputError(
                    f"{source}, line {line}: {len(row)} columns, but the header has {names}; a text with "
                    f"{delimiter!r} in it needs quotes around it"
                )
            yield Record(row[column], None if named is None else ("id", row[named]), source, line)
        line = reader.line_num + 1 + skipped
    if header is None:
        raise InputError(f"{source} is empty; a {_suffix(source)} file needs a header row that names its columns")


def _delimiter(header: str, field: str) -> str:
    """What parts the columns of a .csv file: what makes a column of `field`, else a comma."""
    for delimiter in _DELIMITERS:
        # Not strictly: whatever is wrong with the line is said when it is read.
        with suppress(csv.Error):
            if field in next(csv.reader([header], delimiter=delimiter), []):
                return delimiter
    return _DELIMITERS[0]


def _in_folders(pictures: bool) -> tuple[str, ...]:
    return (*FOLDER_DOCUMENTS, *PICTURES, *PAGES) if pictures else FOLDER_DOCUMENTS


def _folder(path: str, endings: tuple[str, ...], skipped: Skipped | None = None) -> Iterator[str]:
    """Every file below with one of these endings, in the order of the names; hidden files and folders are skipped.

    A folder inside that cannot be read is an OSError, or left out as `skipped` is told.
    """
    with os.scandir(path) as listing:
        entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from _folder(entry.path, endings, skipped)
            except OSError as error:
                _skip(entry.path, error, skipped)
        elif entry.is_file() and _suffix(entry.name) in endings:
            yield entry.path


def _skip(path: str, error: InputError | OSError, skipped: Skipped | None) -> None:
    """Leave out what cannot be read. Raises the error where nothing may be left out."""
    if skipped is None:
        raise error
    words = error.words if isinstance(error, InputError) else error.strerror or str(error)
    skipped(_name(path), words.removeprefix(_name(path)).lstrip(", "))


def _notes(path: str, skipped: Skipped | None, pictures: bool) -> Iterator[Record]:
    """The notes of a folder, and its pictures and pages. Raises InputError if there is none that can be read."""
    documents = read = 0
    for document in _folder(path, _in_folders(pictures), skipped):
        documents += 1
        found = 0
        try:
            for record in _of_file(document):
                if isinstance(record.picture, bytes) and skipped is not None:
                    # Damage shows only when it is decoded.
                    images.decode(record.picture)
                yield record
                found = 1
        except (InputError, OSError) as error:
            _skip(document, error, skipped)
        read += found
    if not documents:
        also = ", and no picture" if pictures else ""
        raise InputError(f"{path} holds no .md or .txt file{also}")
    if not read:
        raise InputError(f"none of the {documents} notes in {path} can be read")


def _of_file(path: str) -> Iterator[Record]:
    """A file of a folder: one text or picture, or the pages of a PDF."""
    if _suffix(path) in PAGES:
        yield from _pages(path)
    else:
        yield _document(path) if _suffix(path) in FOLDER_DOCUMENTS else _picture(path)


def _name(path: str) -> str:
    """A path as JSON and Parquet can have it: names that are not UTF-8 are legal on Linux."""
    return os.fsencode(path).decode("utf-8", "replace")


def _document(path: str) -> Record:
    """A whole file as one text, with newlines as the only line ends."""
    name = _name(path)
    return Record(decode(Path(path).read_bytes(), name, 1).replace("\r\n", "\n"), ("file", name), name)


def _picture(path: str) -> Record:
    """A file with a picture, which the model decodes."""
    name = _name(path)
    return Record("", ("file", name), name, picture=Path(path).read_bytes())


def _pages(path: str) -> Iterator[Record]:
    """Every page of a PDF as a picture; its label ends as links to a page do."""
    name = _name(path)
    for number, page in enumerate(pdf.pages(path), 1):
        yield Record("", ("file", f"{name}#page={number}"), f"{name}, page {number}", picture=page)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _found(names: Iterable[str]) -> str:
    return f"it has: {some(names) or 'none'}"
