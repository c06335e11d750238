"""The public `load_reranker` and `Reranker`: how well each document answers a query."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from mlx_jina.choices import ACTIVATIONS, Activation, Dtype
from mlx_jina.engine.listwise import ListwiseWork
from mlx_jina.engine.loaded_model import LoadedModel
from mlx_jina.engine.opening import opened
from mlx_jina.engine.origin import Origin
from mlx_jina.engine.pipeline import progress
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.ranking import Ranked, check_top_k, ranked
from mlx_jina.engine.reranking import PointwiseWork, Scored, Work
from mlx_jina.engine.thread import ModelThread
from mlx_jina.errors import CheckpointError, InputError, TruncationWarning
from mlx_jina.models.listwise import ListwiseReranker
from mlx_jina.models.rerankers import CrossEncoder, Head, Qwen3Reranker
from mlx_jina.options import check as check_options
from mlx_jina.text.listwise import MAX_DOCUMENT, MAX_QUERY, RankingPrompts
from mlx_jina.text.pairs import BertPairs, Pair, PairOptions, PairTexts, QwenPairs
from mlx_jina.text.tokenizer import check, listed
from mlx_jina.weights.loading import Loaded

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import RerankOptions, Texts

__all__ = ["Ranked", "Reranker", "Scored", "load_reranker"]

Scores = npt.NDArray[np.float32]


def load_reranker(
    name: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    dtype: Dtype | None = None,
    cache_dir: str | Path | None = None,
) -> Reranker:
    """Load a reranker by name ("jina-reranker-v1-tiny-en"), Hugging Face id, folder or .gguf.

    Runs jina-reranker-v1, v2 and v3, BAAI/bge-reranker-v2-m3, Qwen3-Reranker, and models with their layouts.
    Options are those of `mlx_jina.load`. Raises ModelNotFoundError for a name that leads nowhere, CheckpointError
    for files that are no reranker, or none that runs here.
    """
    parts = opened(
        "reranker",
        name,
        revision=revision,
        local_files_only=local_files_only,
        dtype=dtype,
        cache_dir=cache_dir,
    )
    return Reranker(*parts)


class Reranker(LoadedModel):
    """A loaded reranker: a query and documents in, scores out. Made by `load_reranker`.

    Safe to share between threads. A cross-encoder's score depends on nothing but the query and the document:
    alone, among others and in any order it is the same. A `listwise` model compares the documents of a call.
    """

    def __init__(self, loaded: Loaded, thread: ModelThread, origin: Origin) -> None:
        super().__init__(loaded, thread, origin)
        model = loaded.model_for(None)
        self._model = model
        self._work: Callable[[Sequence[Pair], PairOptions], Work]
        if isinstance(model, ListwiseReranker):
            self._work, self._least = _listwise(RankingPrompts(self._tokenizer)), 1
        elif isinstance(model, CrossEncoder):
            texts = QwenPairs(self._tokenizer) if isinstance(model, Qwen3Reranker) else BertPairs(self._tokenizer)
            self._work, self._least = _pointwise(thread.run(model.head), texts), 2 * texts.special_tokens
        else:
            raise CheckpointError(f"{self.path} is no reranker: mlx_jina.load opens it")
        self.listwise: bool = isinstance(model, ListwiseReranker)
        """Whether a document's score depends on the other documents of the call."""
        self.takes_instruction: bool = self.listwise or isinstance(model, Qwen3Reranker)
        """Whether the model reads an instruction besides the query."""

    @classmethod
    def _load_again(cls, origin: Origin) -> Reranker:
        places = {name: value for name, value in origin._asdict().items() if name not in ("task", "as_model")}
        return load_reranker(**places)

    def __repr__(self) -> str:
        return f"Reranker({str(self.path)!r}, dtype={self.dtype!r})"

    def score(
        self,
        query: str,
        documents: Texts,
        *,
        instruction: str | None = None,
        activation: Activation = "default",
        max_length: int | None = None,
        max_document_length: int | None = None,
        truncate: bool = True,
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Scores:
        """How well each document answers the query, in the order of the documents: (N,); no documents give (0,).

        - `instruction`: what a document should do for a query, for models that read one (`takes_instruction`); by
          default the model's own, for questions to a web search.
        - `activation`: "default" gives probabilities, "none" the logits before them, which separate documents
          that are all near 0 or 1. A listwise model's scores are cosines in any case, from -1 to 1.
        - `max_length`: tokens of one row that the model reads, at most `self.max_length`. JinaBERT and XLM-RoBERTa
          read a longer document in several rows that overlap, and its best row counts. Qwen3 reads its first part
          with one TruncationWarning, or with `truncate=False` it is a TooLongError that names the document. A
          listwise model reads so many tokens of documents, and of the query twice, in one prompt, and no more than
          125 documents; further ones go into another prompt.
        - `max_document_length`: tokens of a document; longer ones are cut, or refused, likewise. By default there
          is no such limit, except for listwise models: they read 2048 tokens of a document, and 512 of a query.
        - `batch_tokens`: tokens of a forward pass; a matter of speed and memory, not of results.

        Raises InputError for an empty query and for documents that are no texts, TooLongError for a query that
        leaves no room to a document, and NumericalError if a score is not finite.
        """
        options: RerankOptions = {
            "instruction": instruction,
            "activation": activation,
            "max_length": max_length,
            "max_document_length": max_document_length,
            "truncate": truncate,
            "batch_tokens": batch_tokens,
            "show_progress_bar": show_progress_bar,
        }
        scored = self.details(query, documents, **options)
        self._warn_of_cut(scored, max_length, max_document_length)
        return scored.scores(activation)

    def details(
        self,
        query: str,
        documents: Texts,
        *,
        advance: Callable[[int], object] = int,
        **options: Unpack[RerankOptions],
    ) -> Scored:
        """What became of each document: its raw score, tokens read, tokens cut off, and rows. Nothing warns.

        After each forward pass `advance` is called with the number of rows that this pass finished, or of a
        listwise model's documents. Options as in `score`.
        """
        return self._scored(_pairs(query, documents), windows=True, advance=advance, **options)

    def rank(
        self,
        query: str,
        documents: Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Unpack[RerankOptions],
    ) -> list[Ranked]:
        """Documents by falling score: dicts with `corpus_id` and `score`, and with `return_documents` also `text`.

        The names are those of sentence-transformers' `CrossEncoder.rank`; other options are those of `score`. Of
        equal scores the document that came first comes first. `top_k=None` ranks all.
        """
        check_options(top_k=top_k, return_documents=return_documents)
        check_top_k(top_k)
        # Once, because an iterator can be read but once.
        texts = documents if isinstance(documents, str) else listed(documents)
        scores = self.score(query, texts, **options)
        return ranked(scores, texts, top_k, with_text=return_documents)

    @overload
    def predict(self, inputs: Pair, **options: Unpack[RerankOptions]) -> np.float32: ...

    @overload
    def predict(self, inputs: Sequence[Pair], **options: Unpack[RerankOptions]) -> Scores: ...

    def predict(self, inputs: Pair | Sequence[Pair], **options: Unpack[RerankOptions]) -> np.float32 | Scores:
        """Scores of pairs (query, document), (N,); of one pair a number. Options are those of `score`.

        As in sentence-transformers' `CrossEncoder.predict`, JinaBERT and XLM-RoBERTa read one row of a pair: of a
        pair that is too long the longer text is cut, with one TruncationWarning. For a listwise model all pairs
        with one query are one list.
        """
        given = _listed(inputs)
        single = len(given) == 2 and all(isinstance(side, str) for side in given)
        pairs = [_pair(pair, index) for index, pair in enumerate([given] if single else given)]
        scored = self._scored(pairs, windows=False, **options)
        self._warn_of_cut(scored, options.get("max_length"), options.get("max_document_length"))
        scores = scored.scores(options.get("activation", "default"))
        return scores[0] if single else scores

    def _scored(
        self,
        pairs: Sequence[Pair],
        *,
        windows: bool,
        advance: Callable[[int], object] = int,
        instruction: str | None = None,
        activation: Activation = "default",
        max_length: int | None = None,
        max_document_length: int | None = None,
        truncate: bool = True,
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Scored:
        check_options(
            advance=advance,
            instruction=instruction,
            activation=activation,
            max_length=max_length,
            max_document_length=max_document_length,
            truncate=truncate,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
        )
        if activation not in ACTIVATIONS:
            raise InputError(f"activation={activation!r} is not one of {', '.join(ACTIVATIONS)}")
        plan = self._plan(max_length, truncate, batch_tokens)
        if max_document_length is not None and max_document_length < 1:
            raise InputError(f"max_document_length={max_document_length} must be at least 1")
        work = self._work(pairs, PairOptions(plan.max_length, truncate, windows, instruction, max_document_length))
        with progress(work.rows, show_progress_bar) as bar:

            def done(rows: int) -> None:
                bar.update(rows)
                advance(rows)

            return work.run(self.pipeline, plan, done)

    def _warn_of_cut(self, scored: Scored, max_length: int | None, max_document_length: int | None) -> None:
        if texts := int((scored.cut > 0).sum()):
            own = MAX_DOCUMENT if max_document_length is None else max_document_length
            row = max_length or self.max_length
            limit = own if self.listwise else min(row, max_document_length or row)
            warnings.warn(TruncationWarning(texts, limit), stacklevel=3)
        if scored.queries_cut:
            warnings.warn(TruncationWarning(scored.queries_cut, MAX_QUERY), stacklevel=3)

    def _plan(self, max_length: int | None, truncate: bool, batch_tokens: int | None) -> Plan:
        limit = self.max_length if max_length is None else max_length
        if not self._least < limit <= self.max_length:
            raise InputError(
                f"max_length={max_length} must lie between {self._least + 1} and this model's {self.max_length}"
            )
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens={batch_tokens} must be at least 1")
        return Plan(
            model=self._model,
            prefix="",
            max_length=limit,
            truncate=truncate,
            dimension=self.dimension,
            normalize=False,
            precision="float32",
            ranges=None,
            batch_tokens=batch_tokens or self.loaded.budget.batch_tokens,
        )


def _pairs(query: str, documents: Texts) -> list[Pair]:
    """The query with each document. Raises InputError for an empty query also where there are no documents."""
    if not isinstance(query, str):
        raise InputError(f"the query must be a str, not {type(query).__name__}")
    if isinstance(documents, str):
        raise InputError("documents must be a list of texts, not one str")
    try:
        check([query])
    except InputError as error:
        raise InputError(f"the query {error.words}") from None
    if not query.strip():
        raise InputError("the query is empty")
    return [(query, document) for document in listed(documents)]


def _listed(inputs: object) -> list[Any]:
    """A pair or many as a list, also of an iterator or an array's rows. Raises InputError for what is neither."""
    # Keys of a mapping, columns of a table, letters and bytes are no pairs, and a set has no order.
    table = isinstance(inputs, (str, bytes, Mapping, Set)) or hasattr(inputs, "columns")
    if table or not isinstance(inputs, Iterable):
        kind = type(inputs).__name__
        raise InputError(f"inputs must be a pair (query, document), or a list of such pairs, not {kind}")
    return list(inputs)


def _pair(given: object, position: int) -> Pair:
    """A query and a document, also as the list or the row of an array that sentence-transformers takes."""
    text = isinstance(given, (str, bytes))
    if text or not isinstance(given, (Sequence, np.ndarray)) or len(given) != 2:
        raise InputError("is no pair of a query and a document", position=position)
    return given[0], given[1]


def _pointwise(head: Head, texts: PairTexts) -> Callable[[Sequence[Pair], PairOptions], Work]:
    return lambda pairs, options: PointwiseWork(head, texts.groups(pairs, options), len(pairs))


def _listwise(prompts: RankingPrompts) -> Callable[[Sequence[Pair], PairOptions], Work]:
    return lambda pairs, options: ListwiseWork(prompts.lists(pairs, options), len(pairs), prompts.markers)
