"""An index of notes beside the models: kept in step with its folders, and searched by requests."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_jina.errors import MlxJinaError
from mlx_jina.search import answers, location, watch
from mlx_jina.search.answers import Answer
from mlx_jina.search.changes import Report
from mlx_jina.search.hits import Hit, Mode, check_uri
from mlx_jina.search.index import Index
from mlx_jina.search.language_model import LanguageModel
from mlx_jina.search.query import Where
from mlx_jina.server.expanding import Expanding

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.search.find import SearchOptions

logger = logging.getLogger("mlx_jina.server")

# Seconds that the index is kept busy in one go, so that the server can end in between.
SLICE = 2.0
# Seconds that a request spends on what changed since the last scan, and between scans where nobody watches.
SYNC_SECONDS, POLL_SECONDS = 1.0, 30.0


def open_index(given: str, expand: str | None = None) -> Notes:
    """The index that `--index` names: a file, or a folder, whose index is made if there is none.

    `expand` names a language model that rewords questions. Raises InputError, IndexFileError, ModelNotFoundError
    and CheckpointError.
    """
    expanding = None if expand is None else Expanding(expand, LanguageModel(expand))
    path = Path(given).expanduser()
    if not path.is_dir():
        return Notes(Index(path, create=False, local_files_only=True), None, expanding)
    return Notes(Index(location.index_of(path), local_files_only=True), path, expanding)


class Notes:
    """One index, for all requests. Its methods may be called from any thread."""

    def __init__(self, index: Index, folder: Path | None, expanding: Expanding | None = None) -> None:
        self.index = index
        self.expanding = expanding
        """Other words for questions, for requests that ask for them."""
        self._folder = folder
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="mlx-jina-notes")
        self.watching = False
        """Whether the system tells of changes; otherwise the folders are scanned now and then."""

    def start(self) -> None:
        """Begin to keep the index in step, and to load its model."""
        self._keeper.start()

    def close(self) -> None:
        """End both, and close the file."""
        self._stop.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        self.index.close()

    def search(
        self,
        query: str,
        limit: int,
        mode: Mode,
        where: Where,
        *,
        sync: bool,
        explain: bool,
        uri: str | None,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Search, after a look at what changed if `sync` asks for it. Raises what `Index.find` raises."""
        started = time.monotonic()
        if uri:
            check_uri(uri)
        warnings: Sequence[str] = ()
        unread = 0
        if sync:
            unread, warnings = self._sync(mode != "words")
        found = self.index.find(query, limit, mode, where, **options)
        took = time.monotonic() - started
        answer = answers.of_search(query, found, uri, took=took, unread=unread, explain=explain)
        return {**answer, "warning": "; ".join(filter(None, (*warnings, found.warning))) or None}

    def omnisearch(self, query: str, limit: int) -> list[Answer]:
        """Hits as Obsidian's Omnisearch gives them to browsers and launchers."""
        return [_as_omnisearch(hit) for hit in self.index.search(query, limit)]

    def related(self, note: str | int, line: int | None, limit: int, linked: bool) -> Answer:
        """The notes nearest to one."""
        hits = self.index.related(note, limit, line=line, linked=linked)
        return {"note": note, "line": line, "hits": [answers.of_hit(hit, None) for hit in hits]}

    def duplicates(self, threshold: float, limit: int) -> Answer:
        """Pairs of notes that say the same."""
        return answers.of_duplicates(threshold, self.index.duplicates(threshold)[:limit])

    def read(self, chunk: int, first: int, count: int | None) -> Answer:
        """Lines of a note that a hit is in."""
        note = self.index.read(chunk)
        return {
            "id": chunk,
            "path": note.path,
            "title": note.title,
            "tags": list(note.tags),
            "modified": note.day,
            "from_line": first,
            "lines": note.lines,
            "picture": note.picture,
            "shown_in": list(note.shown_in),
            "text": note.part(first, note.lines if count is None else count),
        }

    def status(self) -> Answer:
        """What is in the index."""
        return {**dataclasses.asdict(self.index.status()), "watching": self.watching}

    def map(self) -> Answer:
        """All notes as points in a plane."""
        return {"notes": [place._asdict() for place in self.index.map()]}

    # ---- keeping up

    def _sync(self, vectors: bool) -> tuple[int, list[str]]:
        """How many notes are still to be read after a second, and what is to be said."""
        try:
            report = self.index.sync(seconds=SYNC_SECONDS, wait=False, vectors=vectors)
        except MlxJinaError as error:
            return 0, [f"the index is searched as it is: {error}"]
        return report.waiting, report.warnings

    def _keep(self) -> None:
        try:
            self.index.preload("notes")
            folder: Path | None = self._folder
            while not self._stop.is_set() and self._slice(folder):
                folder = None
            self._follow()
        # The server goes on with the index as it is.
        except Exception:
            logger.exception("the index of notes is not kept up to date any more")

    def _slice(self, folder: Path | None) -> bool:
        """Bring the index up to date for a while. Returns whether there is more to do."""
        try:
            report = self.index.sync(folder, seconds=SLICE, wait=False, progress=self._progress)
        except _Stopped:
            return False
        except MlxJinaError as error:
            logger.warning("notes: %s", error)
            return False
        self._tell(report)
        # Where nothing was done, another process does it, or nothing can be.
        done = report.any_changes() or report.vectors > 0
        return done and bool(report.waiting or report.without_vectors)

    def _follow(self) -> None:
        self.watching = importlib.util.find_spec("watchfiles") is not None
        if self.watching:
            with suppress(_Stopped):
                for report in watch.follow(self.index, stop=self._stop, wait=False, progress=self._progress):
                    self._tell(report)
            return
        logger.info("notes: scanned every %d s; %s follows changes at once", POLL_SECONDS, watch.INSTALL)
        while not self._stop.wait(POLL_SECONDS):
            while not self._stop.is_set() and self._slice(None):
                pass

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _tell(self, report: Report) -> None:
        counts = {
            "added": len(report.added),
            "changed": len(report.changed),
            "moved": len(report.moved),
            "removed": len(report.removed),
            "with new vectors": report.vectors,
        }
        # Names of notes are as private as their text.
        if words := ", ".join(f"{count} {name}" for name, count in counts.items() if count):
            logger.info("notes: %s", words)
        for warning in report.warnings:
            logger.warning("notes: %s", warning)


class _Stopped(Exception):
    """The server ends; what is done is kept."""


def _as_omnisearch(hit: Hit) -> Answer:
    """https://publish.obsidian.md/omnisearch/Public+API+%26+URL+Scheme."""
    words = {hit.snippet[start:stop].casefold() for start, stop in hit.highlights}
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)", re.IGNORECASE)
    matches: list[dict[str, Any]] = [
        {"match": match[0], "offset": hit.span[0] + match.start()} for match in pattern.finditer(hit.text)
    ]
    root = hit.absolute_path.removesuffix(hit.path).rstrip("/")
    return {
        "score": hit.score,
        "vault": root.rpartition("/")[2],
        "path": hit.path,
        "basename": hit.path.rpartition("/")[2].rpartition(".")[0] or hit.path,
        "foundWords": sorted(words),
        "matches": matches,
        "excerpt": hit.snippet,
    }
