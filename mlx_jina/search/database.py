"""An index's SQLite file: connections, transactions, and SQLite's errors in words."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from mlx_jina.errors import IndexFileError, MlxJinaError
from mlx_jina.search import location, schema

OLDEST_SQLITE = (3, 31, 0)
"""Generated columns came then."""
LATEST = 2.6e11
"""Seconds before and after 1970 that no date of a note reaches."""
# Seconds that a statement waits for another process's transaction.
_PATIENCE = 10.0
# Larger than SQLite's own: a note's vectors waste less of a page.
_PAGE_BYTES = 16_384


# What Python raises where a value is not of the type or the shape that it always has.
_STUMBLES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, StopIteration)


class Cancelled(Exception):
    """A reader was asked to stop, and did."""


class NewerFileError(IndexFileError):
    """A file that a later version made."""


class Scan(NamedTuple):
    """What tells a damaged file from a mistake of ours, and from another program's file."""

    odd: Callable[[sqlite3.Connection], bool]
    foreign: Callable[[sqlite3.Connection], bool]


class Database:
    """Connections to one file: a reader each for as many threads as search, and one writer.

    Readers see the file as it was when they began, and never wait for the writer (WAL). Every transaction raises
    meta's `generation`, so that what readers made of the file can be known to be old.
    """

    def __init__(self, file: Path, scan: Scan, *, create: bool = False) -> None:
        """Open a file, or make it. Raises IndexFileError. Only errors need the `scan`."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE[:2]))
            raise IndexFileError(
                f"this Python comes with SQLite {sqlite3.sqlite_version}, and an index of notes needs {oldest} or "
                "later; use a newer Python"
            )
        self.file = file
        self._scan = scan
        self.read_only = False
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.RLock()
        self._closed = False
        if not create and not file.exists():
            raise IndexFileError(f"{file} does not exist; `mlx-jina index FOLDER` makes an index")
        with self.translated():
            connection = self._open(create)
            self._check(connection, create)
            self._idle.append(connection)
        self._inode = self._inode_now()

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @contextmanager
    def reading(self, cancelled: Callable[[], bool] | None = None) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the file. Raises Cancelled soon after `cancelled` says so."""
        self._check_there()
        with self.translated():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._open(False)
            try:
                connection.execute("begin")
                connection.set_progress_handler(cancelled, 10_000)
                try:
                    yield connection
                except sqlite3.OperationalError as error:
                    if "interrupted" in str(error):
                        raise Cancelled from None
                    raise
                finally:
                    connection.set_progress_handler(None, 0)
                    connection.rollback()
            except BaseException:
                connection.close()
                raise
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The writer's connection in a transaction, which is undone if anything is raised."""
        if self.read_only:
            raise IndexFileError(f"{self.file} cannot be written: the file or its folder is read-only")
        self._check_there()
        with self._writing, self.translated():
            if self._writer is None:
                self._writer = self._open(False)
            connection = self._writer
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("update meta set value = value + 1 where key = 'generation'")
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.rollback()
                raise

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """The writer's connection outside any transaction, for what SQLite does by itself, such as VACUUM."""
        with self._writing, self.translated():
            if self._writer is None:
                self._writer = self._open(False)
            yield self._writer

    def _check_there(self) -> None:
        """Raise IndexFileError where readers and writers would have a file that nobody else sees."""
        if self._closed:
            raise IndexFileError(f"{self.file} has been closed")
        if self._inode_now() != self._inode:
            raise IndexFileError(f"{self.file} has been deleted or replaced since it was opened: open it anew")

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.file)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _open(self, create: bool) -> sqlite3.Connection:
        mode = "rwc" if create else "rw"
        if not create and not self._is_writable():
            self.read_only = True
            # Without a log beside it, nobody is writing, and nobody can.
            mode = "ro" if self._log().exists() else "ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(os.path.abspath(self.file)))}?mode={mode}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            connection.create_function("apart", 1, schema.apart, deterministic=True)
            connection.execute("pragma temp_store = memory")
            # Where each word is, from FTS5's index.
            connection.execute("create virtual table temp.instance using fts5vocab(main, fts, instance)")
            if not self.read_only:
                connection.execute("pragma synchronous = normal")
                connection.execute("pragma foreign_keys = on")
                # macOS's fsync leaves data in the disk's own cache; elsewhere these do nothing.
                connection.execute("pragma fullfsync = on")
                connection.execute("pragma checkpoint_fullfsync = on")
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_writable(self) -> bool:
        return os.access(self.file, os.W_OK) and os.access(self.file.parent, os.W_OK)

    def _log(self) -> Path:
        return self.file.with_name(self.file.name + "-wal")

    def _check(self, connection: sqlite3.Connection, create: bool) -> None:
        """Make the tables of a new file, or see that they are ours and of a version known here."""
        try:
            version = connection.execute("pragma user_version").fetchone()[0]
            if version == schema.VERSION:
                return
            if version > schema.VERSION:
                raise NewerFileError(
                    f"{self.file} was made by a newer mlx-jina (schema {version}, here {schema.VERSION}); upgrade "
                    "mlx-jina, or make the index anew with --rebuild"
                )
            is_new = not connection.execute("select 1 from sqlite_master limit 1").fetchall()
            if is_new and not create:
                raise IndexFileError(
                    f"{self.file} is empty, no index of notes yet; `mlx-jina index FOLDER` fills it"
                )
            if version < 0 or not (is_new or version):
                raise damaged()
            if version and not self._is_writable():
                raise IndexFileError(
                    f"{self.file} was made by an earlier mlx-jina (schema {version}, here {schema.VERSION}) and "
                    "cannot be written: open it once where its file and folder can be"
                )
            if is_new:
                os.chmod(self.file, 0o600)
                connection.execute(f"pragma page_size = {_PAGE_BYTES}")
            self._switch_to_wal(connection)
            connection.execute("begin immediate")
            try:
                # Another process may have done it meanwhile.
                version = connection.execute("pragma user_version").fetchone()[0]
                if version == 0:
                    schema.create(connection)
                else:
                    schema.migrate(connection, version)
                connection.execute("commit")
            except BaseException:
                connection.rollback()
                raise
        except BaseException:
            connection.close()
            raise

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """SQLite's own patience does not cover this statement."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if connection.execute("pragma journal_mode = wal").fetchone()[0] == "wal":
                    return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise IndexFileError(f"{self.file}: SQLite cannot keep a write-ahead log there; use another disk")
            time.sleep(0.01)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's errors in words, and Python's about values that no index has: they are damage as well."""
        try:
            yield
        except sqlite3.Error as error:
            if "not a database" in str(error) and self.file.suffix != location.SUFFIX:
                # Somebody's note, say: nothing that could be made anew.
                raise IndexFileError(f"{self.file} is no index of notes") from None
            if is_damage(error) and self._is_foreign():
                raise IndexFileError(f"{self.file} is no index of notes") from None
            if not (is_damage(error) or is_circumstance(error)) and self._is_odd():
                raise IndexFileError(f"{self.file}: {_DAMAGED}") from damaged()
            raise IndexFileError(f"{self.file}: {explained(error)}") from error
        except MlxJinaError:
            raise
        except _STUMBLES:
            if not self._is_odd():
                # Our own mistake.
                raise
            raise IndexFileError(f"{self.file}: {_DAMAGED}") from damaged()

    def _is_odd(self) -> bool:
        """Whether there is anything in the file that is in no index."""
        try:
            with closing(self._open(False)) as connection:
                return self._scan.odd(connection)
        except UnicodeDecodeError:
            # SQLite's own words, such as the name of a table.
            return True
        except sqlite3.Error as error:
            return is_damage(error)

    def _is_foreign(self) -> bool:
        """Whether the file is another program's. Where indexes are kept by default, none is."""
        try:
            if location.data_folder() in self.file.parents:
                return False
            with closing(self._open(False)) as connection:
                return self._scan.foreign(connection)
        except (sqlite3.Error, UnicodeDecodeError, IndexFileError):
            return False


def explained(error: sqlite3.Error) -> str:
    """What an error of SQLite's means for the person whose index it is."""
    words = str(error)
    for part, meaning in _MEANINGS.items():
        if part in words:
            return meaning
    return words


def is_damage(error: BaseException | None) -> bool:
    """Whether an error says that the file is no whole database any more."""
    parts = ["corrupt", *(part for part, meaning in _MEANINGS.items() if meaning is _DAMAGED)]
    return isinstance(error, sqlite3.DatabaseError) and any(part in str(error) for part in parts)


def is_circumstance(error: sqlite3.Error) -> bool:
    """Whether an error is no fault of the file, such as a full disk."""
    return explained(error) in set(_MEANINGS.values()) - {_DAMAGED}


def damaged() -> sqlite3.DatabaseError:
    """What SQLite says where tables contradict each other."""
    return sqlite3.DatabaseError("database disk image is malformed")


_DAMAGED = (
    "the file is damaged; `mlx-jina index FOLDER --rebuild` keeps it aside as NAME.corrupt-DATE and makes the "
    "index anew from the notes"
)
_MEANINGS: dict[str, str] = {
    "disk is full": "the disk is full; nothing is lost, and the same command goes on once there is space",
    "disk I/O error": "the disk cannot be read or written (disk I/O error); nothing was changed",
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
    "Could not decode": _DAMAGED,
    "no such table": _DAMAGED,
    "no such column": _DAMAGED,
    "duplicate column name": _DAMAGED,
    "has no column named": _DAMAGED,
    "already exists": _DAMAGED,
    "vtable constructor failed": _DAMAGED,
    "fts5 file format": _DAMAGED,
    "SQL logic error": _DAMAGED,
    "locked": "another program has been writing to it for a long time; try again later",
    "no such module: fts5": "this Python's SQLite has no FTS5; use a Python that has, such as python.org's",
    "closed database": "it has been closed",
    "readonly": "the file or its folder is read-only",
    "unable to open database file": "the file cannot be opened, or its folder not be written to",
}


def from_json(value: str) -> Any:
    """What a column keeps as JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        raise damaged() from None


def one(connection: sqlite3.Connection, sql: str, *values: Any) -> Any:
    """The first column of the first row, None without a row."""
    row = connection.execute(sql, values).fetchone()
    return None if row is None else row[0]
