"""Vectors of chunks, which have seen the whole document.

Günther et al. 2024, "Late Chunking" (arXiv 2409.04701): a document is run once, and each chunk's vector is the
mean of its own tokens' states. A document longer than the model's window is run in windows that overlap, and the
tokens that a window repeats from the one before are only context (the paper's "long late chunking"). The paper's
code cuts the row of all tokens; here every window has the special tokens and the prompt that the model was trained
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import mlx.core as mx
import numpy as np

from mlx_jina.engine.pipeline import Item, Pipeline, Pool, ahead, check_length, finish, own_characters, prompted
from mlx_jina.engine.plan import Plan
from mlx_jina.errors import InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import pooling
from mlx_jina.nn.ragged import Batch
from mlx_jina.text import chunking
from mlx_jina.text import tokenizer as tokens
from mlx_jina.text.chunking import Chunk, Chunking, Span
from mlx_jina.text.tokenizer import Ids
from mlx_jina.vectors import Floats, Vectors

# Tokens that each later window of a long document repeats from the window before, as in the paper's code.
WINDOW_OVERLAP = 512


@dataclass(frozen=True)
class ChunkedDocument:
    """A document's chunks; row i of `vectors` (C, D) is that of chunk i."""

    chunks: tuple[Chunk, ...]
    vectors: Vectors


@dataclass(frozen=True)
class _Tokenized:
    """A text with its tokens: `lead` before the text's own tokens, whose characters are `own` (N, 2)."""

    text: chunking.Text
    ids: Ids
    lead: int

    def token_spans(self, spans: Sequence[Span]) -> list[Span]:
        """The tokens of consecutive pieces of the text; the outer pieces also get the tokens outside the text."""
        starts = self.lead + self.text.before([start for start, _ in spans])
        stops = self.lead + self.text.before([stop for _, stop in spans])
        starts[0], stops[-1] = 0, len(self.ids)
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def chunks(self, spans: Sequence[Span]) -> tuple[Chunk, ...]:
        return tuple(
            Chunk(self.text.text[slice(*span)], span, token_span)
            for span, token_span in zip(spans, self.token_spans(spans), strict=True)
        )


@dataclass(frozen=True)
class _Window:
    """Part of a document: the ids to run, numbers of the chunks in it, and each chunk's span of these ids."""

    ids: Ids
    numbers: range
    spans: list[Span]


class Windows:
    """Documents in windows, one or more for each, and the spans of chunks in every window."""

    def __init__(
        self,
        documents: Sequence[_Tokenized],
        spans: Sequence[Sequence[Span]],
        closing: int,
        plan: Plan,
    ) -> None:
        """`spans` are the tokens of each document's chunks."""
        windows = [list(_windows(d, s, closing, plan.max_length)) for d, s in zip(documents, spans, strict=True)]
        firsts = np.cumsum([0, *(len(chunks) for chunks in spans)]).tolist()
        self.of_document: list[int] = [len(parts) for parts in windows]
        """How many windows each document has."""
        self.ids: list[Ids] = [part.ids for parts in windows for part in parts]
        """The ids to run, window by window."""
        self.spans: list[list[Span]] = [part.spans for parts in windows for part in parts]
        """Spans of tokens in each window, one for each chunk in it."""
        self.tokens: list[int] = [stop - start for chunks in spans for start, stop in chunks]
        """How many tokens each chunk has."""
        self.numbers: list[slice] = [
            slice(first + part.numbers.start, first + part.numbers.stop)
            for first, parts in zip(firsts, windows, strict=False)
            for part in parts
        ]
        """The chunks that each window holds a part of, numbered through all documents."""

    def pool(self, window: int) -> Pool:
        """A pool that takes the means of one window's spans, for a window that runs alone."""
        return partial(_means, [self.spans[window]])

    @property
    def first_chunks(self) -> list[int]:
        """The number of the first chunk in each window."""
        return [numbers.start for numbers in self.numbers]

    def chunks(self, means: Floats) -> Floats:
        """Each chunk's mean (C, D), from the means of its parts in all windows, in order."""
        pooled: Floats = np.zeros((len(self.tokens), means.shape[1]), dtype=np.float32)
        lengths = np.array(self.tokens, dtype=np.float32)
        row = 0
        for chunks, spans in zip(self.numbers, self.spans, strict=True):
            share = np.array([stop - start for start, stop in spans], dtype=np.float32) / lengths[chunks]
            pooled[chunks] += means[row : row + len(share)] * share[:, None]
            row += len(share)
        return pooled


def check_pooling(model: EncoderModel) -> None:
    """Raise InputError for a model whose vectors are no means of token states."""
    if model.pooling != "mean":
        raise InputError(
            f"late chunking needs a model that averages its tokens; this one takes the {model.pooling} token's "
            "state, and no token inside a document was trained to stand for what is around it; "
            "without it (late=False) each chunk is embedded alone"
        )


def documents(
    pipeline: Pipeline,
    items: Iterable[Item],
    plan: Plan,
    how: Chunking,
    late: bool,
    advance: Callable[[int], object],
) -> Iterator[list[ChunkedDocument]]:
    """Chunks and vectors of each text, in order, in blocks of texts."""

    def prepare(window: Sequence[Item]) -> list[tuple[_Tokenized, tuple[Chunk, ...]]]:
        tokenized = _tokenize(pipeline, window, plan)
        return [(document, document.chunks(document.text.chunks(how))) for document in tokenized]

    for positions, prepared in ahead(items, prepare):
        if late:
            spans = [[chunk.token_span for chunk in chunks] for _, chunks in prepared]
            windows = Windows([document for document, _ in prepared], spans, pipeline.tokenizer.closing, plan)
            rows = _late(pipeline, windows, np.repeat(positions, windows.of_document).tolist(), plan, advance)
        else:
            # Positions are those of documents, also in errors.
            pieces = [
                (position, chunk.text)
                for position, (_, chunks) in zip(positions, prepared, strict=True)
                for chunk in chunks
            ]
            rows = np.concatenate([rows for _, rows in pipeline.windows(pieces, plan, int)])
            advance(len(positions))
        ends = np.cumsum([len(chunks) for _, chunks in prepared])[:-1]
        yield [
            ChunkedDocument(chunks, vectors)
            for (_, chunks), vectors in zip(prepared, np.split(rows, ends), strict=True)
        ]


def joined(pipeline: Pipeline, texts: Sequence[str], plan: Plan, advance: Callable[[int], object]) -> Vectors:
    """One vector (N, D) for each text, taken as a chunk of one document: all texts, joined by spaces."""
    check_pooling(plan.model)
    if not texts:
        return finish(np.empty((0, plan.model.dimension), dtype=np.float32), plan)
    windows = joined_windows(pipeline, texts, plan)
    return _late(pipeline, windows, windows.first_chunks, plan, lambda _: advance(len(texts)))


def joined_windows(pipeline: Pipeline, texts: Sequence[str], plan: Plan) -> Windows:
    """The windows of one document: all texts, joined by spaces, each of which is a chunk.

    Raises InputError for a text without tokens of its own.
    """
    tokens.check(texts)
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)]).tolist()
    (document,) = _tokenize(pipeline, [(0, " ".join(texts))], plan)
    edges = [*starts[:-1], starts[-1] - 1]
    counts = np.diff(document.text.before(edges))
    if len(texts) > 1 and not counts.all():
        raise InputError(
            "has no tokens of its own, so nothing in the document stands for it",
            position=int(np.argmin(counts)),
        )
    spans = document.token_spans(list(pairwise(edges)))
    return Windows([document], [spans], pipeline.tokenizer.closing, plan)


def _tokenize(pipeline: Pipeline, window: Sequence[Item], plan: Plan) -> list[_Tokenized]:
    positions, texts = prompted(window, plan)
    tokenizer = pipeline.tokenizer
    tokenized = []
    for (position, text), (ids, offsets) in zip(
        window, tokenizer.encode_with_offsets(texts, positions), strict=True
    ):
        if not len(ids):
            check_length(ids, position, plan)
        own = own_characters(offsets, plan)[tokenizer.leading : len(ids) - tokenizer.closing]
        prompt = int(np.searchsorted(np.maximum.accumulate(own[:, 1]), 0, side="right"))
        tokenized.append(_Tokenized(chunking.Text(text, own[prompt:]), ids, tokenizer.leading + prompt))
    return tokenized


def _windows(document: _Tokenized, spans: Sequence[Span], closing: int, max_length: int) -> Iterator[_Window]:
    """Windows of at most `max_length` tokens; each token of the document counts in one of them."""
    total, lead = len(document.ids), document.lead
    if total <= max_length:
        yield _Window(document.ids, range(len(spans)), list(spans))
        return
    room, content = max_length - lead - closing, total - lead - closing
    if room < 1:
        raise InputError(f"max_length={max_length} leaves no room for text beside {lead + closing} other tokens")
    overlap = min(WINDOW_OVERLAP, room // 2)
    starts, stops = np.array(spans).T
    begin, end = 0, 0
    while end < content:
        end = min(begin + room, content)
        # The document's tokens that count in this window; subtracting `begin` gives their place in the window.
        first = lead + begin + overlap if begin else 0
        last = lead + end if end < content else total
        here = range(int(np.searchsorted(stops, first, "right")), int(np.searchsorted(starts, last, "left")))
        yield _Window(
            np.concatenate(
                [
                    document.ids[:lead],
                    document.ids[lead + begin : lead + end],
                    document.ids[total - closing :],
                ]
            ),
            here,
            [(max(spans[i][0], first) - begin, min(spans[i][1], last) - begin) for i in here],
        )
        begin += room - overlap


def _late(
    pipeline: Pipeline, windows: Windows, positions: Sequence[int], plan: Plan, advance: Callable[[int], object]
) -> Vectors:
    """The vectors of every document's chunks, one document after the other.

    `positions` are those of the texts that errors name, one for each window.
    """
    last = set((np.cumsum(windows.of_document) - 1).tolist())
    means = pipeline.forward(
        windows.ids,
        positions,
        plan,
        lambda texts: advance(len(last.intersection(texts))),
        pool=partial(_means, windows.spans),
        counts=[len(spans) for spans in windows.spans],
    )
    return finish(windows.chunks(means), plan)


def _means(spans: Sequence[Sequence[Span]], model: EncoderModel, batch: Batch) -> mx.array:
    """On the model's thread: the mean of each span of each text."""
    hidden = model.hidden(mx.array(batch.ids), batch.ragged)
    starts = batch.ragged.starts.tolist()
    return pooling.span_means(
        hidden,
        [
            (text + start, text + stop)
            for text, index in zip(starts, batch.order, strict=True)
            for start, stop in spans[index]
        ],
    )
