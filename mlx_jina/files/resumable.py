"""A file that takes hours to write and may be interrupted, or killed, at any moment.

`NAME.partial` grows block by block and can be read at any time. `NAME.partial.json`, the state, says how many
bytes of the partial file count, and which texts and options made it; the state is replaced only after a block is
on disk. In the end the partial file becomes NAME, byte for byte as without any interruption, and the state
becomes `NAME.state.json`: a later run compares it with what it would make, and adds what is new in the input.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlx_jina import durable
from mlx_jina.errors import InputError
from mlx_jina.files.inputs import Record
from mlx_jina.files.outputs import FORMATS, LABELS, Label, Parquet
from mlx_jina.vectors import Vectors


def partial_of(target: Path) -> Path:
    """The file that is written before it becomes `target`."""
    return Path(f"{target}.partial")


def _state_of(target: Path) -> Path:
    return Path(f"{partial_of(target)}.json")


def _kept_state_of(target: Path) -> Path:
    return Path(f"{target}.state.json")


def check(target: Path, inputs: Iterable[str], *, resume: bool, force: bool) -> None:
    """Raise InputError where writing to `target` would fail, or destroy what is there."""
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target} does not say what to write: its name must end in {', '.join(FORMATS)}")
    if FORMATS[target.suffix.lower()] is Parquet and importlib.util.find_spec("pyarrow") is None:
        raise InputError("writing .parquet needs pyarrow: pip install 'mlx-jina[parquet]'")
    if resume and force:
        raise InputError("--resume continues and --force starts over: give one of them")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist")
    if target.exists() and any(os.path.exists(path) and os.path.samefile(path, target) for path in inputs):
        raise InputError(f"{target} is also an input")
    if partial_of(target).exists():
        if not resume and not force:
            raise InputError(
                f"{partial_of(target)} is left from an earlier run: --resume continues it, --force starts over"
            )
    elif target.exists() and not resume and not force:
        raise InputError(f"{target} exists already: --force replaces it, --resume adds what is new in the input")


class Partial:
    """The unfinished file of `target`, held by one process at a time. A context manager.

    `made_with` holds all options that shape the vectors. With `resume` these must equal the options of the earlier
    run, whose rows are kept, also if it had finished. Leaving the context keeps the partial file unless it has no
    rows.
    """

    def __init__(
        self,
        target: Path,
        columns: int,
        dtype: np.dtype[Any],
        made_with: Mapping[str, Any],
        *,
        resume: bool,
        labels: Mapping[str, type] = LABELS,
    ) -> None:
        self.path = partial_of(target)
        self.rows = 0
        # Texts that are done; one text may have several rows.
        self.texts = 0
        self._target = target
        self._state_path = _state_of(target)
        self._kept_path = _kept_state_of(target)
        self.finished = False
        """Whether the target is there and, once `skip_done` has seen the input, has all of it."""
        self._format = FORMATS[target.suffix.lower()](columns, dtype, labels)
        self._made_with = dict(made_with)
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._checked = False
        self._file = -1
        with self._named_errors():
            self._drop_what_a_kill_left()
            if target.exists() and not self.path.exists():
                if self._state_path.exists():
                    # A run was killed between its last two steps.
                    durable.replace(self._state_path, self._kept_path)
                if resume:
                    self._take_up(self._finished_state(), target)
                    self.finished = True
                    return
            self._file = self._lock()
            try:
                self._start(resume)
            except BaseException:
                if os.fstat(self._file).st_size == 0:
                    self.path.unlink()
                os.close(self._file)
                raise

    def _drop_what_a_kill_left(self) -> None:
        """Without a state it was being made of the finished target, which has all of it."""
        if self.path.exists() and self._target.exists() and self._kept_path.exists():
            file = self._lock()
            if not self._state_path.exists():
                self.path.unlink()
            os.close(file)

    def _lock(self) -> int:
        # Opened without truncating, because another process may be writing the file.
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have finished and renamed the file between the two calls above.
            mine = os.path.samestat(os.fstat(file), os.stat(self.path))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError:
            # Some network file systems have no locks.
            mine = True
        if not mine:
            os.close(file)
            raise InputError(f"another process is writing {self.path}")
        return file

    def _start(self, resume: bool) -> None:
        state = self._read_state() if resume else None
        if state is None:
            os.ftruncate(self._file, 0)
            self._append([self._format.header(0)])
            self._expected = self._digest.hexdigest()
            self._record()
            return
        self._take_up(state, self.path)
        if os.fstat(self._file).st_size < state["bytes"]:
            raise InputError(f"{self.path} is shorter than {self._state_path.name} says; --force starts over")

    def _take_up(self, state: Mapping[str, Any], path: Path) -> None:
        """Go on from the state of `path`, if this run would have made the same."""
        for key in {**self._made_with, **state["made_with"]}:
            before, now = state["made_with"].get(key), self._made_with.get(key)
            if before != now:
                # Of a model the fingerprint is kept, which says nothing to a person.
                found = "another model than" if key == "model" else f"{key}={before!r}, and"
                this = "this run's" if key == "model" else f"this run has {key}={now!r}"
                raise InputError(f"{path} was made with {found} {this}; --force starts over")
        self.rows, self.texts = state["rows"], state["texts"]
        self._bytes, self._expected = state["bytes"], state["digest"]

    def _finished_state(self) -> dict[str, Any]:
        """The state that lies beside the target. Raises InputError if it is not that of this target."""
        if not self._kept_path.exists():
            raise InputError(
                f"{self._target} is there, but not {self._kept_path.name}, which says what it was made of; "
                "--force starts over"
            )
        state = self._parsed(self._kept_path)
        # Missing after a kill between the last two steps.
        if state.get("size", size := self._target.stat().st_size) != size:
            raise InputError(f"{self._target} was changed after it was finished; --force starts over")
        return state

    def skip_done(self, records: Iterator[Record]) -> Iterator[Record]:
        """Skip the texts whose vectors are here already, and check that they are the same texts.

        Only then are bytes cut off that the state does not count. Call `skip_done` before `append`. Returns the
        texts that are left; a finished target grows by them.
        """
        path = self._target if self.finished else self.path
        for done in range(self.texts):
            record = next(records, None)
            if record is None:
                raise InputError(f"the input has {done} texts, but {path} already has the vectors of {self.texts}")
            self._count_in(record)
        if self._digest.hexdigest() != self._expected:
            raise InputError(
                f"the first {self.texts} texts are not those that {path} was made from; --force starts over"
            )
        if self.finished:
            if (more := next(records, None)) is None:
                return iter(())
            records = chain([more], records)
            self._reopen()
        self._checked = True
        with self._named_errors():
            os.ftruncate(self._file, self._bytes)
            self._write_header()
        return records

    def _reopen(self) -> None:
        """Make an unfinished file of the finished one, which stays until the new one takes its place."""
        with self._named_errors():
            self._file = self._lock()
            os.ftruncate(self._file, 0)
            self._bytes = 0
            self._append(self._format.reopen(self._target))
            self._record()
        self.finished = False

    def append(
        self, records: Sequence[Record], labels: Sequence[Label], rows: Vectors, *, resumable: bool = True
    ) -> None:
        """Write all rows of the next texts, with a label for each row.

        Rows that are not `resumable` can be read, but --resume makes them again.
        """
        with self._named_errors():
            self._append(self._format.block(self.rows, labels, rows))
            self.rows += len(rows)
            self.texts += len(records)
            self._write_header()
            for record in records:
                self._count_in(record)
            if resumable:
                self._record()

    def finish(self) -> None:
        """Turn the partial file into the target."""
        with self._named_errors():
            durable.sync(self._file)
            self._format.finish(self.path, self._target)
            self._write_state(self._kept_path, {"size": self._target.stat().st_size})
        self._state_path.unlink(missing_ok=True)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        if self.finished or self._file < 0:
            return
        if self._checked:
            # A full disk or an interrupt leaves part of a block; after `finish` there is nothing to cut.
            with suppress(OSError):
                os.ftruncate(self._file, self._bytes)
        if self.rows == 0:
            self.path.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)
        os.close(self._file)

    def _count_in(self, record: Record) -> None:
        # Of a picture, the file's bytes, and of a page its pixels.
        text = record.text.encode("utf-8", "surrogatepass") if record.picture is None else bytes(record.picture)
        self._digest.update(f"{len(text)} {record.label!a}\n".encode())
        self._digest.update(text)

    def _append(self, chunks: Iterable[bytes]) -> None:
        end = self._bytes
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._file, view, end)
                view, end = view[written:], end + written
        self._bytes = end

    def _write_header(self) -> None:
        os.pwrite(self._file, self._format.header(self.rows), 0)

    def _record(self) -> None:
        durable.sync(self._file)
        self._write_state(self._state_path, {})

    def _write_state(self, path: Path, besides: Mapping[str, Any]) -> None:
        state = {
            **besides,
            "rows": self.rows,
            "texts": self.texts,
            "bytes": self._bytes,
            "digest": self._digest.hexdigest(),
            "made_with": self._made_with,
        }
        new = Path(f"{path}.new")
        durable.write_text(new, json.dumps(state, indent=1))
        durable.replace(new, path)

    def _read_state(self) -> dict[str, Any] | None:
        """The state of the earlier run; None if it was stopped before it wrote anything."""
        try:
            return self._parsed(self._state_path)
        except FileNotFoundError:
            if os.fstat(self._file).st_size <= len(self._format.header(0)):
                return None
            raise InputError(
                f"{self._state_path} is missing, so {self.path} cannot be continued; --force starts over"
            ) from None

    def _parsed(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # Or a KeyError later on.
            _ = [state[key] for key in ("rows", "texts", "bytes", "digest", "made_with")]
        except (ValueError, TypeError, LookupError):
            raise InputError(f"{path} is damaged; --force starts over") from None
        return state

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Put the file's name into an OSError, since errors of a file descriptor lack it."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error
