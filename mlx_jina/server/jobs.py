"""The job of one request: its texts, their tokens, their vectors, its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from mlx_jina.engine import pipeline
from mlx_jina.engine.late_chunking import Windows, joined_windows
from mlx_jina.engine.pipeline import Pipeline, Pool
from mlx_jina.engine.plan import Plan
from mlx_jina.errors import InputError, NumericalError
from mlx_jina.text.tokenizer import MOST, Ids
from mlx_jina.vectors import Floats, Vectors


@dataclass(frozen=True)
class Encoded:
    """One request's vectors (N, D), the tokens of each text as embedded, and how many texts were cut."""

    vectors: Vectors
    tokens: list[int]
    truncated: int


class Job:
    """One request's texts, which three threads handle in turn: the event loop's, a tokenising one, the model's."""

    def __init__(
        self, texts: Sequence[str], plan: Plan, late_chunking: bool, answer: asyncio.Future[Encoded]
    ) -> None:
        self.texts = texts
        self.plan = plan
        self.late_chunking = late_chunking and bool(texts)
        self.answer = answer
        self.characters = sum(map(len, texts))
        self.gone = False
        self.ids: list[Ids] = []
        """Ids to run: of the texts, or of the windows of the document that the texts make (`late_chunking`)."""
        self.windows: Windows | None = None
        self.truncated = 0
        self.rows: dict[int, Floats] = {}
        """The result for each of `ids`: one row, or one row for each chunk in a window."""

    @property
    def prompted(self) -> list[str]:
        """The texts with their prompt, to be tokenised; none if the texts make one document."""
        return [] if self.late_chunking else pipeline.prompted(list(enumerate(self.texts)), self.plan)[1]

    def tokenize(self, road: Pipeline, ids: Sequence[Ids] | None) -> None:
        """Set `self.ids`, from the ids of `prompted` if they are given. Raises InputError."""
        if self.late_chunking:
            if self.characters > MOST:
                raise InputError(
                    f"late chunking takes a document of at most {MOST} characters here, and this one has "
                    f"{self.characters}; send its parts one after the other"
                )
            self.windows = joined_windows(road, self.texts, self.plan)
            self.ids = self.windows.ids
        else:
            uncut = road.tokenizer.encode(self.prompted, max_length=self.plan.max_length) if ids is None else ids
            for index, text in enumerate(uncut):
                pipeline.check_length(text, index, self.plan)
            self.ids, self.truncated = road.cut(uncut, self.plan)

    def pool(self, index: int) -> Pool:
        return self.windows.pool(index) if self.windows else pipeline.whole

    def pooled(self) -> Floats:
        """One row for each text, once all `rows` are there."""
        none: Floats = np.empty((0, self.plan.model.dimension), dtype=np.float32)
        pooled: Floats = np.concatenate([none, *(self.rows[index] for index in range(len(self.ids)))])
        return self.windows.chunks(pooled) if self.windows else pooled

    def repair(self) -> None:
        """On the model's thread: compute unusable rows once more. Raises NumericalError."""
        positions = self.windows.first_chunks if self.windows else range(len(self.ids))
        for index, rows in self.rows.items():
            if not pipeline.usable(rows, self.plan).all():
                position = positions[index]
                self.rows[index] = pipeline.retry(self.plan, self.pool(index), [self.ids[index]], 0, position)

    def encoded(self, vectors: Vectors) -> Encoded:
        """The answer with these vectors."""
        tokens = self.windows.tokens if self.windows else [len(ids) for ids in self.ids]
        return Encoded(vectors, tokens, self.truncated)


Result = tuple[Job, Encoded | Exception]


def finished(jobs: Sequence[Job]) -> list[Result]:
    """On the model's thread: the answers to finished jobs. Jobs with equal options share their NumPy calls."""
    kinds: dict[object, list[Job]] = {}
    for job in jobs:
        plan = job.plan
        kinds.setdefault((plan.dimension, plan.normalize, plan.precision, id(plan.ranges)), []).append(job)
    results: list[Result] = []
    for kind in kinds.values():
        plan = kind[0].plan
        pooled = [job.pooled() for job in kind]
        together = np.concatenate(pooled)
        if pipeline.usable(together, plan).all():
            vectors = pipeline.finish(together, plan)
            ends = accumulate(len(rows) for rows in pooled)
            results += [
                (job, job.encoded(vectors[end - len(rows) : end]))
                for job, rows, end in zip(kind, pooled, ends, strict=True)
            ]
        elif len(kind) > 1:
            results += [result for job in kind for result in finished([job])]
        else:
            results.append((kind[0], _repaired(kind[0])))
    return results


def _repaired(job: Job) -> Encoded | NumericalError:
    try:
        job.repair()
    except NumericalError as error:
        return error
    return job.encoded(pipeline.finish(job.pooled(), job.plan))
