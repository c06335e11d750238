"""`Index`: notes in folders and what finds them, in one file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mlx_jina.errors import IndexFileError, InputError
from mlx_jina.options import check as check_options
from mlx_jina.search import damage, identity, location, pictures, roots, spaces
from mlx_jina.search.changes import Options as SyncOptions
from mlx_jina.search.changes import Report
from mlx_jina.search.contents import Contents
from mlx_jina.search.database import Database, damaged, one
from mlx_jina.search.find import Options, find
from mlx_jina.search.folders import sync_folders
from mlx_jina.search.hits import MODES, Found, Hit, Mode
from mlx_jina.search.lock import Busy, Wait, writer
from mlx_jina.search.model import DEFAULT, Model, Progress, Space
from mlx_jina.search.model import check as check_model
from mlx_jina.search.postings import Postings
from mlx_jina.search.query import Where, parse
from mlx_jina.search.snippets import Highlighter
from mlx_jina.search.status import Status, status, without_vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.encoder import Encoder
    from mlx_jina.search.expansion import Expander
    from mlx_jina.search.find import ByMeaning, SearchOptions
    from mlx_jina.search.meaning import Meaning, Vectors
    from mlx_jina.search.neighbours import Duplicate
    from mlx_jina.search.ranking import Scorer
    from mlx_jina.search.rows import Row
    from mlx_jina.text.prompts import Side


class Index(Contents):
    """An index of notes: opened, or made, at `file`. Searches may come from several threads at once.

    `model` is a name that `mlx_jina.load` takes, or a loaded model; by default the one that the index has vectors
    of, and "pocket" for a new one. It is loaded when the first vector is needed. `create=False` wants the file to
    be there, and `local_files_only=True` the model.

        with mlx_jina.Index("notes.db") as index:
            index.sync("~/Notes")
            for hit in index.search("how do I feed a sourdough starter?"):
                print(hit.path, hit.line, hit.snippet)

    Raises IndexFileError for a file that is no index, is damaged, or cannot be kept where it is, and
    ModelNotFoundError for a name that is misspelt, or of a model that has to be there and is not.
    """

    def __init__(
        self,
        file: str | Path,
        model: str | Path | Encoder | None = None,
        *,
        create: bool = True,
        local_files_only: bool = False,
    ) -> None:
        check_options(file=file, create=create, local_files_only=local_files_only)
        if model is not None:
            check_model(model, local_files_only=local_files_only)
        self.file = Path(os.path.expanduser(file)).absolute()
        if create and not self.file.exists():
            location.check(self.file)
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise IndexFileError(f"{self.file.parent}: {error.strerror}") from None
        self._database = Database(self.file, damage.SCAN, create=create)
        with self._database.reading() as connection:
            space = spaces.current(connection)
        name = (space.model if space else DEFAULT) if model is None else model
        self._model = Model(name, local_files_only=local_files_only)
        self._given = str(model) if isinstance(model, Path) else model
        self._highlighter = Highlighter()
        self._postings = Postings()
        self._vectors: tuple[int, Vectors] | None = None
        self._reading_vectors = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[object, ...]]:
        """Pickled, an index is its file and the model that it was opened with, as another process opens it."""
        return _opened, (str(self.file), self._given, self._model.local_files_only)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._model.close()
        self._database.close()
        self._highlighter.close()
        self._postings.close()

    # ---- keeping it up to date

    def sync(
        self,
        folder: str | Path | None = None,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_size: int | None = None,
        verify: bool = False,
        allow_mass_delete: bool = False,
        dry_run: bool = False,
        vectors: bool = True,
        seconds: float | None = None,
        wait: Wait = True,
        progress: Progress | None = None,
    ) -> Report:
        """Bring the index up to date with a folder, which may be new to it, or with all it has.

        Words of everything come first, then vectors, the latest notes before older ones. Whatever stops it, what
        is done is kept whole, and the next call goes on.

        - `include`, `exclude`, `max_size`: patterns as in .gitignore, and bytes of a file; the index keeps them.
        - `verify`: read every file, also those that look unchanged.
        - `allow_mass_delete`: believe it when most of the notes are gone; otherwise they stay, with a warning.
        - `dry_run`: only report.
        - `vectors`: False leaves them for later.
        - `seconds`: about how much time there is, besides what it takes to load the model.
        - `wait`: while another process writes to the index: wait, and tell a function who it is; or False, come
          back with a warning.
        - `progress`: is told "words" or "vectors", how much of them is done, and how much there is to do.

        Raises InputError for a folder that is not there, for settings that make no sense, and if the index has
        vectors of another model; IndexFileError if it cannot be written.
        """
        check_options(
            folder=folder,
            include=include,
            exclude=exclude,
            wait=wait,
            max_size=max_size,
            verify=verify,
            allow_mass_delete=allow_mass_delete,
            dry_run=dry_run,
            vectors=vectors,
            seconds=seconds,
            progress=progress,
        )
        report = Report()
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        options = SyncOptions(verify, allow_mass_delete, dry_run, deadline)
        tell = progress or _nobody
        with self._database.translated():
            try:
                with writer(self.file, "words", wait):
                    settings = roots.Settings(include, exclude, max_size)
                    sync_folders(self._database, self._model, folder, settings, options, report, tell)
                if vectors and not dry_run:
                    with writer(self.file, "vectors", wait):
                        report.vectors = spaces.embed(self._database, self._model, deadline, tell, report.skipped)
            except Busy as busy:
                report.warnings.append(f"{busy} is updating this index; what it has done so far is used")
            with self._database.reading() as connection:
                report.without_vectors = without_vectors(connection)
        return report

    def forget(self, folder: str | Path, *, wait: Wait = True) -> bool:
        """Remove a folder and its notes from the index. It need not be there any more, and its files stay.

        An index that has no other folder is closed, and its file deleted. Returns whether it was. `wait` as in
        `rebuild`. Raises InputError for a folder that the index does not have.
        """
        check_options(folder=folder, wait=wait)
        path = os.path.realpath(os.path.expanduser(folder))
        with self._writing(wait, "words", "vectors"):
            with self._database.writing() as connection:
                known = identity.all_of(connection)
                by_path = {folder.path: own for own, folder in known.items()}
                own = by_path.get(path, roots.with_inode(path, known))
                if own is None:
                    raise InputError(
                        f"{self.file} does not have {path}; it has {', '.join(by_path) or 'no folder'}"
                    )
                roots.forget(connection, own)
            if len(known) == 1:
                self.close()
                location.delete(self.file)
        return len(known) == 1

    def rebuild(self, *, wait: Wait = True, progress: Progress | None = None) -> Report:
        """New vectors for all notes, by the model that this index was opened with.

        The old ones are searched until the last is there. Whatever stops it, the next call goes on. Where the new
        model sees and the old one does not, pictures are taken in first, and the other way round they are left
        out at the end. `wait` and `progress` as in `sync`; raises IndexFileError where another process is writing
        and `wait` is False.
        """
        check_options(wait=wait, progress=progress)
        report, tell = Report(), progress or _nobody
        with ExitStack() as held:
            held.enter_context(self._database.translated())
            with self._writing(wait, "words"):
                held.enter_context(self._writing(wait, "vectors"))
                before = pictures.are_taken(self._database, self._model)
                space = spaces.begin(self._database, self._model)
                if pictures.are_taken(self._database, self._model) and not before:
                    self._take_pictures(report, tell)
            spaces.finish(self._database, self._model, space, tell, report.skipped)
            pictures.switch(self._database, pictures.are_taken(self._database, self._model))
        return report

    def _take_pictures(self, report: Report, tell: Progress) -> None:
        try:
            sync_folders(self._database, self._model, None, roots.Settings(), SyncOptions(), report, tell)
        # Texts have new vectors without their folder; the next sync takes in its pictures.
        except InputError as error:
            report.warnings.append(str(error))

    # ---- searching

    def search(
        self,
        text: str,
        limit: int = 10,
        mode: Mode = "hybrid",
        where: Where | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """The best notes for a question, best first. Nothing is synchronised.

        - `text`: words, "a phrase" that has to be there, -word that must not, after:, before:, and tag:, in: and
          title:, with or without a minus.
        - `mode`: "hybrid", or only "words" or "meaning".
        - `where`: filters, which leave out notes before anything is ranked.
        - `chunks`: also several hits of one note.
        - `recent`: a note counts half for every 180 days since it was modified.
        - `min_score`, `min_cosine`: leave out worse hits. A cosine means something within one index only.
        - `prefix`: the last word may only have begun, as while somebody types.
        - `rerank`: what `mlx_jina.load_reranker` returns, which reads the 30 best; the scores of both are blended.
        - `expand`: a `mlx_jina.search.language_model.LanguageModel`, or another `Expander`: other words for the
          question, which are searched for besides, unless words match strongly.
        - `cancelled`: is asked now and then whether to stop, which raises Cancelled.

        Raises InputError for options that make no sense, and by "meaning" alone if there are no vectors.
        """
        return list(self.find(text, limit, mode, where, **options).hits)

    def find(
        self,
        text: str,
        limit: int = 10,
        mode: Mode = "hybrid",
        where: Where | None = None,
        *,
        chunks: bool = False,
        recent: bool = False,
        min_score: float | None = None,
        min_cosine: float | None = None,
        prefix: bool = False,
        rerank: Scorer | None = None,
        expand: Expander | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Found:
        """`search`, and how the hits were found."""
        check_options(
            text=text,
            limit=limit,
            mode=mode,
            chunks=chunks,
            recent=recent,
            min_score=min_score,
            min_cosine=min_cosine,
            prefix=prefix,
            cancelled=cancelled,
        )
        if mode not in MODES:
            raise InputError(f"mode={mode!r} is not one of {', '.join(MODES)}")
        if limit < 1:
            raise InputError(f"limit={limit} must be at least 1")
        if min_score is not None and not 0 <= min_score <= 1:
            raise InputError(f"min_score={min_score} must lie between 0 and 1")
        if min_cosine is not None and not -1 <= min_cosine <= 1:
            raise InputError(f"min_cosine={min_cosine} must lie between -1 and 1")
        if rerank is not None and not hasattr(rerank, "score"):
            raise InputError(f"rerank={rerank!r} must be a loaded reranker, not {type(rerank).__name__}")
        if expand is not None and not hasattr(expand, "expand"):
            raise InputError(f"expand={expand!r} must be a LanguageModel, not {type(expand).__name__}")
        query = parse(text, where, prefix)
        with self._database.reading(cancelled) as connection:
            weight = one(connection, "select value from meta where key = 'weight'")
            if weight is None:
                weight = self._model.weight
            options = Options(limit, mode, weight, chunks, recent, min_score, min_cosine)
            space = spaces.current(connection)
            by_meaning = None
            if mode != "words" and query.text.strip():
                by_meaning = self._by_meaning(connection, space, limit)
            found = find(connection, self._highlighter, self._postings, query, options, by_meaning, rerank, expand)
            waiting = without_vectors(connection)
        return replace(
            found,
            model=space.model if space else None,
            fingerprint=space.fingerprint if space else None,
            waiting=waiting,
        )

    def _by_meaning(self, connection: sqlite3.Connection, space: Space | None, limit: int) -> ByMeaning:
        """How to rank by meaning. Words do for an index without vectors, and not even the model is loaded."""

        def rank(text: str, side: Side, allowed: Collection[int] | None, asked: Collection[int]) -> Meaning | None:
            if space is None:
                raise InputError(f"{self.file.name} has no vectors yet; `mlx-jina index` makes them")
            # Vectors are read before the model is asked for, which may still be loading.
            vectors = self._vectors_of(connection, space)
            if spaces.check(self._database, self._model, space).dimension != space.dimension:
                raise damaged()
            if side == "query":
                vector = self._model.encode_query(text)
            else:
                (vector,) = self._model.encode_documents([text])
            return vectors.rank(connection, vector, allowed, asked, limit)

        return rank

    def preload(self, text: str) -> None:
        """Begin, in a thread, to load the model and to encode a query that will be searched for."""
        check_options(text=text)
        if typed := parse(text).text.strip():
            with self._database.reading() as connection:
                known = spaces.current(connection)
            if known is not None:
                self._model.preload(typed)

    def _vectors_of(self, connection: sqlite3.Connection, space: Space) -> Vectors:
        """The vectors of the state that the connection sees, read again only if that has changed."""
        from mlx_jina.search import meaning

        generation = one(connection, "select value from meta where key = 'generation'")
        with self._reading_vectors:
            if self._vectors is None or self._vectors[0] != generation:
                self._vectors = generation, meaning.read(connection, space.dimension)
            return self._vectors[1]

    # ---- notes beside each other

    def related(
        self, path: str | Path | int, limit: int = 10, *, line: int | None = None, linked: bool = False
    ) -> list[Hit]:
        """The notes nearest to a note, or to the chunk at a line of it, best first.

        Those that link to it, or that it links to, only with `linked`. `path` is absolute, or relative to the
        folder of the index, or a title, or the `id` of a hit. Raises InputError for what is no note of the index.
        """
        from mlx_jina.search import neighbours

        check_options(limit=limit, line=line, linked=linked)
        if not isinstance(path, int):
            check_options(path=path)
        with self._database.reading() as connection:
            vectors = self._all_vectors(connection)
            return neighbours.related(connection, self._highlighter, vectors, path, line, limit, linked)

    def duplicates(self, threshold: float = 0.95) -> list[Duplicate]:
        """Pairs of notes with the same content, or of about one length and a cosine of at least `threshold`."""
        from mlx_jina.search import neighbours

        check_options(threshold=threshold)
        if not 0 < threshold <= 1:
            raise InputError(f"threshold={threshold} must lie between 0 and 1")
        with self._database.reading() as connection:
            return neighbours.duplicates(connection, self._all_vectors(connection), threshold)

    def _all_vectors(self, connection: sqlite3.Connection) -> Vectors:
        space = spaces.current(connection)
        if space is None or not len(vectors := self._vectors_of(connection, space)):
            raise InputError(f"{self.file.name} has no vectors yet; `mlx-jina index` makes them")
        return vectors

    # ---- what is in it

    def rows(self) -> Iterator[Row]:
        """Every chunk with its place, text and vector, as a stream: what another store can be filled with."""
        from mlx_jina.search import rows

        with self._database.reading() as connection:
            yield from rows.rows(connection, spaces.current(connection))

    def status(self) -> Status:
        """How much is in the index, of which folders, and by which model."""
        with self._database.reading() as connection:
            return status(connection, self.file)

    def check(self, *, repair: bool = False, wait: Wait = True) -> list[str]:
        """What is wrong with the index, in words; nothing if all is well. `repair` mends what it can.

        `wait` as in `rebuild`.
        """
        from mlx_jina.search import check

        check_options(repair=repair, wait=wait)
        with self._database.translated(), self._writing(wait, "words", "vectors"):
            return check.check(self._database, repair)

    def compact(self, *, wait: Wait = True) -> int:
        """Give back the space of what was deleted, and put words in order. Returns the file's size in bytes.

        `wait` as in `rebuild`.
        """
        check_options(wait=wait)
        with self._writing(wait, "words", "vectors"):
            with self._database.writing() as connection:
                connection.execute("insert into fts(fts) values ('optimize')")
                connection.execute("delete from cache")
            with self._database.alone() as connection:
                connection.execute("vacuum")
                connection.execute("pragma wal_checkpoint(truncate)")
        return self.file.stat().st_size

    def set_weight(self, weight: float) -> None:
        """How much the meaning half counts in this index's scores, 0 to 1; the model's where nobody said so."""
        check_options(weight=weight)
        if not 0 <= weight <= 1:
            raise InputError(f"weight={weight} must lie between 0 and 1")
        with self._database.writing() as connection:
            connection.execute("replace into meta values ('weight', ?)", (weight,))

    @contextmanager
    def _writing(self, wait: Wait, *what: str) -> Iterator[None]:
        """Nobody else writes these meanwhile. Raises IndexFileError."""
        with ExitStack() as held:
            try:
                for each in what:
                    held.enter_context(writer(self.file, each, wait))
            except Busy as busy:
                raise IndexFileError(f"{self.file}: {busy} is updating it; try again later") from None
            yield


def _opened(file: str, model: str | Encoder | None, local_files_only: bool) -> Index:
    return Index(file, model, create=False, local_files_only=local_files_only)


def _nobody(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""
