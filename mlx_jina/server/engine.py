"""Turn a client's names, options and texts into vectors, for the handlers of all dialects."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np

from mlx_jina import vectors
from mlx_jina.choices import Precision
from mlx_jina.encoder import Encoder
from mlx_jina.engine import late_chunking
from mlx_jina.engine.loaded_model import LoadedModel
from mlx_jina.engine.multi_vectors import MultiVectors
from mlx_jina.engine.pictures import Seen
from mlx_jina.engine.pipeline import Item
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.reranking import Scored
from mlx_jina.errors import InputError, MlxJinaError, TooLongError
from mlx_jina.models.base import EncoderModel
from mlx_jina.server import reranking
from mlx_jina.server.errors import ApiError
from mlx_jina.server.jobs import Encoded
from mlx_jina.server.model_store import Loaded, Model, ModelStore
from mlx_jina.server.scheduler import BatchError
from mlx_jina.text import prompts
from mlx_jina.vectors import Vectors
from mlx_jina.vision.images import Image

# A request for token vectors is computed in parts of at most so many characters, between which others get a turn.
PART_CHARACTERS = 1 << 16
PART_PICTURES = 4
# The side by its name in Cohere's API.
_INPUT_TYPES = {"search_query": "query", "search_document": "document"}


@dataclass(frozen=True)
class Embedded:
    """The answer to one request."""

    model: Model
    vectors: Vectors
    """(N, D), in the order of the texts."""
    tokens: list[int]
    """How many tokens of each text were embedded, after any cut, with prompt and special tokens."""
    truncated: int
    """How many texts were cut."""
    fingerprint: str
    """Vectors of equal fingerprints may be mixed in one index."""
    load_seconds: float
    """Seconds of loading the model; 0 if it was loaded already."""
    seconds: float
    """Seconds of the whole call, loading included."""


class Reranked(NamedTuple):
    """The answer to one request to rerank."""

    model: Model
    scored: Scored


class EmbedOptions(TypedDict, total=False):
    """Options of `Engine.embed`, which explains them, as requests of every dialect name them."""

    task: str | None
    input_type: str | None
    dimensions: int | None
    normalize: bool
    truncate: bool
    late_chunking: bool


@dataclass(frozen=True)
class TokensEmbedded(Embedded):
    """The answer to a request for token vectors: `vectors` are the rows of all texts, one after the other."""

    rows: list[int]
    """How many rows each text has."""


class Engine:
    """Texts to vectors for all requests of a server; use it from its event loop only."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store

    async def embed(
        self,
        texts: Sequence[str | Image],
        model: str = "",
        *,
        task: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        precision: Precision = "float32",
        truncate: bool = False,
        late_chunking: bool = False,
        max_pixels: int | None = None,
    ) -> Embedded:
        """Vectors (N, D) of N texts, and of pictures among them where the model sees.

        - `model`: a name as clients write it, perhaps with a task or a side as suffix
          ("v5-small:retrieval.query", "v2-base-en:query"); "" is the default model.
        - `task`: as in Jina's API; `input_type`: "query" or "document", or a task, in the spelling of Jina, Cohere
          or Voyage. Suffix, `task` and `input_type` must not contradict each other.
        - `truncate`: cut texts that are too long, and count the cut ones; False refuses such texts.
        - `late_chunking`: the texts are one document's chunks, in order, each embedded in its context. The
          document may be longer than the model's limit.
        - `max_pixels`: pictures are resized to at most so many.

        Raises ApiError: 404 for a model that is not here, 400 for texts and options that cannot be used, 503 if
        the server has no room or the model does not load. A call that is cancelled frees its place.
        """
        started = time.perf_counter()
        chosen, suffix = await self.store.find(model)
        async with self.store.using(chosen) as loaded:
            ready = time.perf_counter()
            encoder = loaded.encoder
            try:
                task, prompt_name = _task_and_prompt(encoder, suffix, task, input_type)
                _check_dimensions(encoder, dimensions)
                plan = loaded.plan(
                    task=task,
                    prompt_name=prompt_name,
                    truncate_dim=dimensions,
                    truncate=truncate,
                    normalize_embeddings=normalize,
                    precision=precision,
                    max_pixels=max_pixels,
                )
                if late_chunking:
                    _check_late_chunking(plan.model)
                words, seen = _apart(texts, encoder, late_chunking=late_chunking)
                encoded = await loaded.scheduler.run(
                    [text for _, text in words], plan, late_chunking=late_chunking
                )
                if seen:
                    encoded = _together(words, encoded, await _pictures(loaded, encoder, seen, plan))
            except TooLongError as error:
                raise ApiError(400, str(error), "INPUT_TOKEN_LIMIT_EXCEEDED", "input") from None
            except InputError as error:
                raise ApiError(400, str(error), "invalid_input") from None
            except (MlxJinaError, BatchError) as error:
                raise ApiError(500, str(error), "computation_failed") from None
            fingerprint = await loaded.fingerprint(task)
        return Embedded(
            model=chosen,
            vectors=encoded.vectors,
            tokens=encoded.tokens,
            truncated=encoded.truncated,
            fingerprint=fingerprint,
            load_seconds=ready - started,
            seconds=time.perf_counter() - started,
        )

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        model: str = "",
        *,
        instruction: str | None,
        max_document_length: int | None,
        truncate: bool,
    ) -> Reranked:
        """How well each of N documents answers a query.

        `model`: as in `embed`; "" is the default model, or else the first reranker. The other options are those of
        `Reranker.score`. Raises ApiError as `embed` does. The job of a call that is cancelled ends with its batch.
        """
        chosen, suffix = await self.store.find(model, "reranker")
        if suffix is not None:
            raise ApiError(400, f"a reranker has no tasks or sides, and {suffix!r} is none", None, "model")
        gone = threading.Event()

        def advance(_: int) -> None:
            if gone.is_set():
                raise _GoneError

        async with self.store.using(chosen) as loaded:
            job = partial(
                loaded.reranker.details,
                query,
                list(documents),
                advance=advance,
                instruction=instruction,
                max_document_length=max_document_length,
                truncate=truncate,
                batch_tokens=reranking.batch_tokens(),
                show_progress_bar=False,
            )
            started = time.perf_counter()
            try:
                scored = await self.store.reranking.run(job, query, list(documents))
            except TooLongError as error:
                # An error of the query names no position.
                at_fault = "query" if error.position is None else "documents"
                raise ApiError(400, str(error), "INPUT_TOKEN_LIMIT_EXCEEDED", at_fault) from None
            except InputError as error:
                raise ApiError(400, str(error), "invalid_input") from None
            except MlxJinaError as error:
                raise ApiError(500, str(error), "computation_failed") from None
            finally:
                gone.set()
            seconds = time.perf_counter() - started
            self.store.reranking.observe(scored.computed_tokens, seconds)
            self.store.observe(chosen, len(documents), scored.computed_tokens, seconds)
        return Reranked(chosen, scored)

    async def embed_tokens(
        self,
        texts: Sequence[str | Image],
        model: str = "",
        *,
        task: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        precision: Precision = "float32",
        truncate: bool = False,
        max_pixels: int | None = None,
    ) -> TokensEmbedded:
        """Token vectors of N texts by a late-interaction model: `MultiVectorEncoder.encode_query` and `_document`.

        `task`, `input_type` and the model's suffix name task and side as in `embed`. Without a side, texts are
        documents to a ColBERT, and queries to a model with tasks, as to its own code. Raises ApiError as `embed`
        does. Texts go in parts, so that a query waits for a part of a bulk and not for its end; a call that is
        cancelled ends after its part.
        """
        started = time.perf_counter()
        chosen, suffix = await self.store.find(model)
        async with self.store.using(chosen) as loaded:
            ready = time.perf_counter()
            encoder = loaded.multi_vector
            found: dict[int, MultiVectors] = {}
            try:
                if encoder.tasks:
                    task, prompt_name = _task_and_prompt(encoder, suffix, task, input_type)
                    side = prompts.SIDE_OF.get(prompt_name or prompts.QUERY, prompts.QUERY)
                else:
                    side = _side({"the model's suffix": suffix, "task": task, "input_type": input_type})
                    task = None
                plan = encoder.plan(
                    side,
                    task=task,
                    truncate_dim=dimensions,
                    precision=precision,
                    truncate=truncate,
                )
                words, seen = _apart(texts, encoder)
                if max_pixels is not None and not encoder.sees:
                    raise InputError(f"max_pixels={max_pixels} is for models that see pictures: v4 and v5-omni")
                plan = replace(plan, max_pixels=max_pixels)
                for position, picture in (await _pictures(loaded, encoder, seen, plan)).items():
                    found[position] = MultiVectors(picture.vectors, picture.tokens, cut=False)
                for part in _parts(words):
                    encode = partial(encoder.encode_items, side, part, plan)
                    found |= await asyncio.get_running_loop().run_in_executor(loaded.threads, encode)
            except TooLongError as error:
                raise ApiError(400, str(error), "INPUT_TOKEN_LIMIT_EXCEEDED", "input") from None
            except InputError as error:
                raise ApiError(400, str(error), "invalid_input") from None
            except MlxJinaError as error:
                raise ApiError(500, str(error), "computation_failed") from None
            fingerprint = await loaded.fingerprint_of_tokens(task)
        columns, kind = vectors.layout(plan.dimension, precision)
        in_order = [found[i] for i in range(len(texts))]
        return TokensEmbedded(
            model=chosen,
            vectors=np.concatenate([np.empty((0, columns), dtype=kind), *(each.vectors for each in in_order)]),
            tokens=[each.tokens for each in in_order],
            truncated=sum(each.cut for each in in_order),
            fingerprint=fingerprint,
            load_seconds=ready - started,
            seconds=time.perf_counter() - started,
            rows=[len(each.vectors) for each in in_order],
        )


def _side(said: Mapping[str, str | None]) -> prompts.Side:
    """The side that a request for token vectors names, by the places where it can."""
    sides: dict[prompts.Side, str] = {}
    for place, word in said.items():
        if word is None:
            continue
        name = _INPUT_TYPES.get(word, word).removeprefix("retrieval.")
        if name not in prompts.SIDE_OF:
            raise ApiError(400, f"{place} ({word}) should be query or document", None, "input_type")
        sides[prompts.SIDE_OF[name]] = place
    if len(sides) > 1:
        raise ApiError(400, f"{' and '.join(f'{place} ({side})' for side, place in sides.items())} contradict")
    return next(iter(sides), "document")


def _apart(
    texts: Sequence[str | Image], model: LoadedModel, *, late_chunking: bool = False
) -> tuple[list[Item], list[tuple[int, Image]]]:
    """Texts and pictures with their positions. Raises ApiError for pictures that nothing sees."""
    words = [(i, item) for i, item in enumerate(texts) if isinstance(item, str)]
    seen = [(i, item) for i, item in enumerate(texts) if isinstance(item, Image)]
    if seen and not model.sees:
        raise ApiError(400, "this model sees no pictures; jina-embeddings-v4 does", "model_kind", "input")
    if seen and late_chunking:
        raise ApiError(400, "late_chunking takes the texts of one document, and no images", None, "late_chunking")
    return words, seen


async def _pictures(
    loaded: Loaded, model: LoadedModel, pictures: Sequence[tuple[int, Image]], plan: Plan
) -> dict[int, Seen]:
    """What becomes of pictures, some at a time, between which others get a turn."""
    found: dict[int, Seen] = {}
    for start in range(0, len(pictures), PART_PICTURES):
        part = pictures[start : start + PART_PICTURES]
        run = partial(lambda part: list(model.windows_of_images(part, plan)), part)
        for positions, seen in await asyncio.get_running_loop().run_in_executor(loaded.threads, run):
            found.update(zip(positions, seen, strict=True))
    return found


def _together(words: Sequence[Item], encoded: Encoded, pictures: Mapping[int, Seen]) -> Encoded:
    """The vectors of texts and pictures in the order of the request."""
    rows = {position: encoded.vectors[i] for i, (position, _) in enumerate(words)}
    tokens = {position: encoded.tokens[i] for i, (position, _) in enumerate(words)}
    rows |= {position: seen.vectors[0] for position, seen in pictures.items()}
    tokens |= {position: seen.tokens for position, seen in pictures.items()}
    order = range(len(rows))
    return Encoded(np.stack([rows[i] for i in order]), [tokens[i] for i in order], encoded.truncated)


def _parts(texts: Sequence[Item]) -> Iterator[list[Item]]:
    """Positions and texts, shortest first, in parts of bounded size."""
    part: list[Item] = []
    characters = 0
    for item in sorted(texts, key=lambda item: len(item[1])):
        if part and characters + len(item[1]) > PART_CHARACTERS:
            yield part
            part, characters = [], 0
        part.append(item)
        characters += 1 + len(item[1])
    if part:
        yield part


class _GoneError(Exception):
    """The client has hung up."""


def _task_and_prompt(
    encoder: LoadedModel, suffix: str | None, task: str | None, input_type: str | None
) -> tuple[str | None, str | None]:
    """Task and prompt name for `Encoder.encode`, from the three places where a client can name them."""
    said = {"the model's suffix": suffix, "task": task, "input_type": input_type}
    tasks: dict[str, str] = {}
    sides: dict[prompts.Side, str] = {}
    for place, word in said.items():
        if word is None:
            continue
        name, side = _task_and_side(encoder, word, of_input=place == "input_type")
        if name is not None:
            tasks[name] = place
        if side is not None:
            sides[prompts.SIDE_OF[side]] = place
    for named in (tasks, sides):
        if len(named) > 1:
            raise ApiError(400, f"{' and '.join(f'{place} ({name})' for name, place in named.items())} contradict")
    task = next(iter(tasks), None)
    chosen = next(iter(sides), None)
    if chosen is None:
        return task or _default_task(encoder, chosen), None
    known = encoder.loaded.prompts
    task = known.task_of(chosen, task) or _default_task(encoder, chosen)
    return task, known.name_of(chosen, task)


def _task_and_side(encoder: LoadedModel, word: str, of_input: bool) -> tuple[str | None, str | None]:
    """What one word means: a task, a side of retrieval, or both."""
    word = _INPUT_TYPES.get(word, word)
    if of_input and word == "clustering" and "separation" in encoder.tasks:
        word = "separation"
    if word in encoder.tasks:
        return word, None
    if word in prompts.SIDE_OF:
        return None, word
    name, side = prompts.split_task(word)
    if side is not None and prompts.split_task(name)[1] is not None:
        # Two sides; no task has such a name.
        return word, None
    if name == "retrieval" and side is not None and not encoder.tasks:
        # In a model's one vector space, a side of retrieval is a prompt at most.
        return None, side
    return name, side


def _default_task(encoder: LoadedModel, side: str | None) -> str | None:
    """Retrieval for a request that names a side, which only retrieval has; else the default of Jina's API."""
    if len(encoder.tasks) < 2:
        return None
    if side is not None and "retrieval" in encoder.tasks:
        return "retrieval"
    return encoder.entry.default_task if encoder.entry else None


def _check_late_chunking(model: EncoderModel) -> None:
    try:
        late_chunking.check_pooling(model)
    except InputError as error:
        raise ApiError(400, str(error), None, "late_chunking") from None


def _check_dimensions(encoder: Encoder, dimensions: int | None) -> None:
    trained = encoder.truncate_dims or (encoder.dimension,)
    if dimensions is not None and dimensions not in (*trained, encoder.dimension):
        sizes = ", ".join(map(str, trained))
        raise ApiError(
            400,
            f"dimensions={dimensions} is not one that this model was trained for ({sizes})",
            None,
            "dimensions",
        )
