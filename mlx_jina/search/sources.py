"""From a chunk that is a picture to its pixels: only of files in the index, as they were when it read them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search import notes
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.walk import is_dataless, open_below

if TYPE_CHECKING:
    from mlx_jina.vision.resize import Pixels


class Source(NamedTuple):
    """Where a chunk's picture comes from."""

    root: str
    name: str
    """As the file system spells it, below the folder."""
    path: str
    size: int
    hash: bytes
    """Of the file as it was read."""
    page: int


class Changed(Exception):
    """A file is not there, or not as it was when the index read it: the next scan will see to it."""


def source_of(connection: sqlite3.Connection, chunk: int) -> Source | None:
    """Where the picture of a chunk comes from; None for a chunk of text, and for one that is not there."""
    if not 0 <= chunk < 1 << 63:
        # No number of SQLite's.
        return None
    row = connection.execute(
        "select root.path, note.name, note.path, size, note.hash, picture from chunk "
        "join note on note.id = chunk.note join root on root.id = note.root where chunk.id = ?",
        (chunk,),
    ).fetchone()
    if row is None or row[-1] is None:
        return None
    root, name, path, size, own, page = row
    return Source(root, os.fsdecode(name) if name is not None else path, path, size, own, page)


def content(found: Source) -> bytes:
    """The file of a picture or PDF, as it was when the index read it. Raises Changed."""
    try:
        with open(open_below(found.root, found.name), "rb") as file:
            status = os.fstat(file.fileno())
            # What is in iCloud only is not downloaded.
            if status.st_size != found.size or is_dataless(status):
                raise Changed
            data = file.read()
    except OSError:
        raise Changed from None
    if notes.digest(data) != found.hash:
        raise Changed
    return data


def pixels(found: Source, data: bytes) -> Pixels:
    """The picture, or the page, in a file's bytes. Raises InputError."""
    from mlx_jina.vision import images, patches, pdf

    seen = images.decode(data) if is_picture(found.path) else pdf.page(data, found.page)
    patches.check_ratio(*seen.shape[:2])
    return seen


def thumbnail(connection: sqlite3.Connection, chunk: int, size: int) -> bytes:
    """A JPEG of a chunk's picture, of at most `size` pixels a side. Raises InputError."""
    found = source_of(connection, chunk)
    if found is None:
        raise InputError(f"{chunk} is no picture in this index")
    from mlx_jina.vision import images

    try:
        data = content(found)
        return images.thumbnail(data if is_picture(found.path) else pixels(found, data), size)
    except Changed:
        raise InputError(f"{found.path} is not what it was when the index read it") from None
    except InputError as error:
        raise InputError(f"{found.path}: {error.words}") from None


def decoded(sources: Sequence[tuple[int, Source]], faults: dict[int, str | None]) -> Iterator[tuple[int, Pixels]]:
    """Pictures by their places, one in memory at a time; `faults` gets the others, None for files that changed."""
    last: tuple[Source, bytes] | None = None
    for place, found in sources:
        try:
            # Pages of one file follow on each other.
            if last is None or last[0][:-1] != found[:-1]:
                last = found, content(found)
            yield place, pixels(found, last[1])
        except Changed:
            faults[place] = None
        except InputError as error:
            faults[place] = error.words
