"""Routes of an index of notes: this project's own, and Omnisearch's for its clients.

https://publish.obsidian.md/omnisearch/Public+API+%26+URL+Scheme
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, ConfigDict, Field

from mlx_jina.errors import IndexFileError, InputError, MlxJinaError
from mlx_jina.search.expansion import Expander
from mlx_jina.search.hits import Mode
from mlx_jina.search.query import Where
from mlx_jina.server.dialects.base import Body, Endpoint, Name, Reply
from mlx_jina.server.dialects.openai import error_body
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.expanding import RequestExpander
from mlx_jina.server.notes import Notes

T = TypeVar("T")

# What is said of notes is nobody's to keep, and nothing but what it says it is.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_MOST_HITS = 1000
_JPEG = "image/jpeg"

Text = Annotated[str, Field(max_length=10_000)]
Limit = Annotated[int, Field(ge=1, le=_MOST_HITS)]
# JavaScript's numbers are exact up to here, and so are ids of chunks.
Id = Annotated[int, Field(ge=0, lt=1 << 53)]


class OwnBody(Body):
    """A request in no other's dialect, so its fields are known: a filter that is misspelt would filter nothing."""

    model_config = ConfigDict(extra="forbid")


class WhereBody(OwnBody):
    """Filters, as `mlx_jina.Where` has them."""

    glob: Text | list[Text] = ""
    tags: Text | list[Text] = ""
    title: Text = ""
    since: Text | None = None
    until: Text | None = None

    def where(self) -> Where:
        """The filters."""
        return Where(self.glob or (), self.tags or (), self.title, self.since, self.until)


class NotesRequest(OwnBody):
    """A search. `sync` first looks for changes, which a server finds by itself a little later."""

    query: Text = Field(validation_alias=AliasChoices("query", "q"))
    index: Name | None = None
    limit: Limit = Field(10, validation_alias=AliasChoices("limit", "n"))
    mode: Mode = "hybrid"
    where: WhereBody = WhereBody()
    chunks: bool = False
    recent: bool = False
    min_score: float | None = None
    min_cosine: float | None = None
    prefix: bool = False
    rerank: Name | None = None
    expand: bool | Name = False
    sync: bool = False
    explain: bool = False
    uri: Text | None = None


class OmnisearchRequest(Body):
    """Omnisearch's only parameter, and how many hits; it gives 50."""

    q: Text
    limit: Limit = 50


class RelatedRequest(OwnBody):
    """A note by its path or title, or by the id of a hit in it."""

    path: Text | None = None
    id: Id | None = None
    line: int | None = Field(None, ge=1, lt=1 << 53)
    limit: Limit = 10
    linked: bool = False


class DuplicatesRequest(OwnBody):
    """The lowest cosine of a pair of notes, and how many pairs."""

    threshold: float = Field(0.95, gt=0, le=1)
    limit: Limit = 100


class NoteRequest(OwnBody):
    """A note by the id of a hit in it; no path, so that none can lead elsewhere."""

    id: Id
    from_line: int = Field(1, ge=1, lt=1 << 53)
    lines: int | None = Field(None, ge=1, lt=1 << 53)


class PictureRequest(OwnBody):
    """A picture by the id of a hit that is one; `size` are pixels of its longer side."""

    id: Id
    size: int = Field(480, ge=16, le=2048)


def endpoints(notes: Notes) -> tuple[Endpoint, ...]:
    """The routes of one index."""

    async def search(engine: Engine, body: NotesRequest) -> Reply:
        """Search the notes by words and by meaning."""
        _check_index(notes, body.index)
        gone = threading.Event()
        try:
            return await _answer(
                partial(
                    notes.search,
                    body.query,
                    body.limit,
                    body.mode,
                    body.where.where(),
                    sync=body.sync,
                    explain=body.explain,
                    uri=body.uri,
                    chunks=body.chunks,
                    recent=body.recent,
                    min_score=body.min_score,
                    min_cosine=body.min_cosine,
                    prefix=body.prefix,
                    rerank=None if body.rerank is None else _Scorer(engine, body.rerank),
                    expand=_expander(notes, body.expand, gone.is_set),
                    cancelled=gone.is_set,
                )
            )
        finally:
            # A client that hung up, as one does who types on, needs no answer.
            gone.set()

    async def omnisearch(engine: Engine, body: OmnisearchRequest) -> Reply:
        """Search the notes, with an answer in the shape of Obsidian's Omnisearch."""
        return await _answer(partial(notes.omnisearch, body.q, body.limit))

    async def related(engine: Engine, body: RelatedRequest) -> Reply:
        """The notes nearest to a note."""
        given = body.path if body.id is None else body.id
        if given is None:
            raise ApiError(400, "name a note by path, or by the id of a hit", "invalid_input", "path")
        return await _answer(partial(notes.related, given, body.line, body.limit, body.linked))

    async def duplicates(engine: Engine, body: DuplicatesRequest) -> Reply:
        """Pairs of notes that say the same."""
        return await _answer(partial(notes.duplicates, body.threshold, body.limit))

    async def note(engine: Engine, body: NoteRequest) -> Reply:
        """The text of a note, as its file is now."""
        return await _answer(partial(notes.read, body.id, body.from_line, body.lines))

    async def picture(engine: Engine, body: PictureRequest) -> Reply:
        """A picture that a search found, or a page of a PDF, as a small JPEG."""
        data = await _found(partial(notes.index.thumbnail, body.id, body.size))
        headers = {**_HEADERS, "Content-Security-Policy": "default-src 'none'"}
        return Reply(data, media_type=_JPEG, headers=headers)

    async def indexes(engine: Engine, body: None) -> Reply:
        """The index that is served, in numbers."""
        return await _answer(lambda: {"object": "list", "data": [notes.status()]})

    async def places(engine: Engine, body: None) -> Reply:
        """A map: all notes as points in a plane, near each other where they mean about the same."""
        return await _answer(notes.map)

    return (
        Endpoint("POST", "/v1/search", search, error_body, NotesRequest),
        Endpoint("GET", "/search", omnisearch, error_body, OmnisearchRequest),
        Endpoint("GET", "/related", related, error_body, RelatedRequest),
        Endpoint("GET", "/duplicates", duplicates, error_body, DuplicatesRequest),
        Endpoint("GET", "/note", note, error_body, NoteRequest),
        Endpoint("GET", "/picture", picture, error_body, PictureRequest, media_type=_JPEG),
        Endpoint("GET", "/v1/indexes", indexes, error_body),
        Endpoint("GET", "/v1/map", places, error_body),
    )


def _expander(notes: Notes, asked: bool | str, cancelled: Callable[[], bool]) -> Expander | None:
    """The language model that the server was started with, if a request asks for it. Raises ApiError."""
    if asked is False:
        return None
    if notes.expanding is None:
        words = "this server has no language model to reword questions; `mlx-jina serve --expand MODEL` has one"
        raise ApiError(404, words, "model_not_found", "expand")
    if asked not in (True, notes.expanding.name):
        words = f"this server's language model is not {asked!r}; expand=true takes the one it has"
        raise ApiError(404, words, "model_not_found", "expand")
    return RequestExpander(notes.expanding, cancelled)


class _Scorer:
    """A reranker of the server's, for a search in a thread."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._loop = asyncio.get_running_loop()

    def score(self, query: str, documents: list[str]) -> list[float]:
        """Probabilities, or a listwise model's cosines, by the server's turn. Raises ApiError."""
        work = self._engine.rerank(
            query, documents, self._model, instruction=None, max_document_length=None, truncate=True
        )
        scored = asyncio.run_coroutine_threadsafe(work, self._loop).result().scored
        scores: list[float] = scored.scores("default").tolist()
        return scores


async def _answer(work: Callable[[], Any]) -> Reply:
    """What a thread finds, as JSON. Raises ApiError."""
    return Reply(await _found(partial(_written, work)), headers=_HEADERS)


async def _found(work: Callable[[], bytes]) -> bytes:
    """What a thread finds. Raises ApiError."""
    try:
        return await asyncio.to_thread(work)
    except InputError as error:
        raise ApiError(400, str(error), "invalid_input") from None
    except IndexFileError as error:
        raise ApiError(503, str(error), "index_unavailable") from None
    except MlxJinaError as error:
        raise ApiError(500, str(error), "computation_failed") from None


def _written(work: Callable[[], Any]) -> bytes:
    # Not by orjson: names of files may hold bytes that are no UTF-8, which ASCII spells out.
    return json.dumps(work()).encode()


def _check_index(notes: Notes, given: str | None) -> None:
    """Only the index that was named at the start can be asked for."""
    if given is not None and given not in (notes.index.file.name, notes.index.file.stem, str(notes.index.file)):
        raise ApiError(404, f"this server has no index {given!r}; /v1/indexes names the one it has", None, "index")
