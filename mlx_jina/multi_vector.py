"""The public `load_multi_vector` and `MultiVectorEncoder`: late interaction, a vector for every token."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy.typing as npt

from mlx_jina import vectors
from mlx_jina.choices import Dtype, Precision
from mlx_jina.engine import plan as plans
from mlx_jina.engine.loaded_model import LoadedModel
from mlx_jina.engine.multi_vectors import MultiVectors, multi_vectors
from mlx_jina.engine.opening import opened
from mlx_jina.engine.origin import Origin
from mlx_jina.engine.pipeline import longest_first, progress
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.ranking import Ranked, check_top_k, ranked
from mlx_jina.engine.thread import ModelThread
from mlx_jina.errors import InputError, TruncationWarning
from mlx_jina.options import check as check_options
from mlx_jina.text.late_interaction import ColBERT, LateInteraction
from mlx_jina.text.prompts import Side
from mlx_jina.text.tokenizer import listed
from mlx_jina.vectors import AnyRows, Floats
from mlx_jina.vision import images as pictures
from mlx_jina.vision.images import AnyPictures
from mlx_jina.weights.loading import Loaded

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import MultiVectorOptions, Texts, TokenPictureOptions

__all__ = ["MultiVectorEncoder", "Ranked", "load_multi_vector"]


def load_multi_vector(
    name: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    dtype: Dtype | None = None,
    cache_dir: str | Path | None = None,
    as_model: str | None = None,
) -> MultiVectorEncoder:
    """Load jina-colbert-v2, jina-colbert-v1-en or jina-embeddings-v4 by name, Hugging Face id or folder.

    Options are those of `load`; only v4 has tasks. A loaded v4 has both kinds of vectors from one set of weights:
    `Encoder.multi_vector`.

    Raises ModelNotFoundError for a name that leads nowhere, CheckpointError for files that do not fit, and for a
    model with one vector for each text, which `load` opens.
    """
    parts = opened(
        "multi-vector",
        name,
        task=task,
        revision=revision,
        local_files_only=local_files_only,
        dtype=dtype,
        cache_dir=cache_dir,
        as_model=as_model,
    )
    return MultiVectorEncoder(*parts)


class MultiVectorEncoder(LoadedModel):
    """A late-interaction model: texts in, a NumPy array of token vectors out for each. Safe to share by threads.

    Made by `load_multi_vector`; names and shapes are those of sentence-transformers' class.
    """

    def __init__(self, loaded: Loaded, thread: ModelThread, origin: Origin) -> None:
        super().__init__(loaded, thread, origin)
        colbert, tokenizer = loaded.files.config.get("colbert"), loaded.files.tokenizer
        self._texts = ColBERT(tokenizer, colbert) if colbert else LateInteraction(tokenizer, self.max_length)
        self.query_length: int = self._texts.max_lengths["query"]
        """Tokens of a query, at most; of a ColBERT's exactly, for short ones are filled up with mask tokens."""
        self.document_length: int = min(self._texts.max_lengths["document"], self.max_length)
        """Tokens of a document, at most, where a call does not say how many; the checkpoint's own choice."""

    @classmethod
    def _load_again(cls, origin: Origin) -> MultiVectorEncoder:
        return load_multi_vector(**origin._asdict())

    def tokenize(self, texts: str | Texts) -> list[list[int]]:
        """Token ids of each text as a document, special tokens and marker included, without prompt, uncut."""
        return [ids.tolist() for ids in self._texts.uncut("document", listed(texts))]

    @overload
    def encode_query(self, texts: str, **options: Unpack[MultiVectorOptions]) -> AnyRows: ...

    @overload
    def encode_query(self, texts: Texts, **options: Unpack[MultiVectorOptions]) -> list[AnyRows]: ...

    def encode_query(self, texts: str | Texts, **options: Unpack[MultiVectorOptions]) -> AnyRows | list[AnyRows]:
        """Token vectors of queries, (L, D) each, of unit length: a list gives a list, one str gives one array.

        Each query of a ColBERT has exactly L = `max_length` tokens, by default `query_length`: behind shorter ones
        stand mask tokens, whose vectors expand the query (arXiv 2004.12832, section 3.2). Options as in
        `encode_document`.
        """
        return self._encode("query", texts, options)

    @overload
    def encode_document(self, texts: str, **options: Unpack[MultiVectorOptions]) -> AnyRows: ...

    @overload
    def encode_document(self, texts: Texts, **options: Unpack[MultiVectorOptions]) -> list[AnyRows]: ...

    def encode_document(
        self, texts: str | Texts, **options: Unpack[MultiVectorOptions]
    ) -> AnyRows | list[AnyRows]:
        """Token vectors of documents, (n, D) each, of unit length: a list gives a list, one str gives one array.

        Of a ColBERT, punctuation has no vector, so n is at most the number of a document's tokens. Of
        jina-embeddings-v4, the prompt's tokens have vectors too.

        - `task`: one of `self.tasks`; needed unless the model has none, or was loaded for one.
        - `truncate_dim`: keep the first dimensions, before the one normalisation; only sizes the model was
          trained for, unless `allow_untrained_dim`.
        - `max_length`: tokens of a document, marker and special tokens included; by default `document_length`, at
          most `self.max_length`. Longer texts are cut with one TruncationWarning, or with `truncate=False` are a
          TooLongError that names the text.
        - `precision`, `ranges`: what is stored; see `vectors.quantize`. Bits are packed, eight to a byte.
        - `batch_tokens`: tokens per forward pass; a matter of speed and memory, not of results.
        - `show_progress_bar`: None shows one on a terminal when the call takes longer than two seconds.

        Raises InputError for unusable texts or options, and NumericalError if a vector is not finite.
        """
        return self._encode("document", texts, options)

    def _encode(self, side: Side, texts: str | Texts, options: MultiVectorOptions) -> AnyRows | list[AnyRows]:
        items = listed(texts)
        plan = self.plan(side, **options)
        with progress(len(items), options.get("show_progress_bar")) as bar:
            found = self.encode_items(side, longest_first(items), plan, bar.update)
        if cut := sum(each.cut for each in found.values()):
            warnings.warn(TruncationWarning(cut, plan.max_length), stacklevel=3)
        rows: list[AnyRows] = [found[i].vectors for i in range(len(items))]
        return rows[0] if isinstance(texts, str) else rows

    def encode_images(
        self,
        images: AnyPictures,
        *,
        max_pixels: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Unpack[TokenPictureOptions],
    ) -> AnyRows | list[AnyRows]:
        """Vectors of pictures, (n, D) each, one for each 28 x 28 pixels and each word around the picture.

        Pictures and options are those of `Encoder.encode_images`.
        A list gives a list, one picture gives one array. Raises CheckpointError for a model that sees no pictures.
        """
        check_options(max_pixels=max_pixels, show_progress_bar=show_progress_bar, **options)
        items = pictures.listed(images)
        plan = plans.make(self.loaded, max_pixels=max_pixels, **options)
        with progress(len(items), show_progress_bar) as bar:
            found = self.rows_of_images(enumerate(items), plan, bar.update)
        rows: list[AnyRows] = [found[i] for i in range(len(items))]
        return rows[0] if pictures.is_one(images) else rows

    def plan(
        self,
        side: Side,
        *,
        task: str | None = None,
        truncate_dim: int | None = None,
        allow_untrained_dim: bool = False,
        max_length: int | None = None,
        truncate: bool = True,
        precision: Precision = "float32",
        ranges: npt.ArrayLike | None = None,
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Plan:
        """Check the options of `encode_query` or `encode_document`, and keep them for the texts to come."""
        check_options(
            task=task,
            truncate_dim=truncate_dim,
            allow_untrained_dim=allow_untrained_dim,
            max_length=max_length,
            truncate=truncate,
            precision=precision,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
        )
        own = self.query_length if side == "query" else self.document_length
        limit = own if max_length is None else max_length
        if not (shortest := self._texts.shortest) <= limit <= self.max_length:
            raise InputError(f"max_length={limit} must lie between {shortest} and this model's {self.max_length}")
        prompts = self.loaded.prompts
        task = prompts.task_of(side, task)
        return plans.make(
            self.loaded,
            task=task,
            prompt_name=prompts.name_of(side, task),
            truncate_dim=truncate_dim,
            allow_untrained_dim=allow_untrained_dim,
            max_length=limit,
            truncate=truncate,
            precision=precision,
            ranges=ranges,
            batch_tokens=batch_tokens,
        )

    def encode_items(
        self, side: Side, items: Iterable[tuple[int, str]], plan: Plan, advance: Callable[[int], object] = int
    ) -> dict[int, MultiVectors]:
        """What becomes of each text by its position; errors name positions. Nothing warns of texts that were cut.

        `plan` comes from `self.plan`. `advance` is called with the number of texts that a forward pass finished.
        """
        found: dict[int, MultiVectors] = {}
        for positions, texts in multi_vectors(self.pipeline, self._texts, side, items, plan, advance):
            found.update(zip(positions, texts, strict=True))
        return found

    def similarity(
        self,
        queries: npt.ArrayLike | Sequence[npt.ArrayLike],
        documents: npt.ArrayLike | Sequence[npt.ArrayLike],
        precision: Precision | None = None,
        ranges: npt.ArrayLike | None = None,
    ) -> Floats:
        """MaxSim (N, M) of N queries and M documents, quantised ones too: `vectors.max_sim`."""
        return vectors.max_sim(queries, documents, precision, ranges)

    def rank(
        self,
        query: str,
        documents: Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Unpack[MultiVectorOptions],
    ) -> list[Ranked]:
        """Documents by their MaxSim with a query, best first, equal ones in their own order.

        `top_k` keeps so many. Options are those of `encode_document`; `max_length` is of documents. Raises
        InputError for an empty query.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError("the query is empty or no str")
        precision = options.get("precision", "float32")
        check_options(top_k=top_k, return_documents=return_documents, precision=precision)
        check_top_k(top_k)
        texts = listed(documents)
        if isinstance(documents, str):
            raise InputError("documents must be a list of str; for one document give a list of one")
        if not texts:
            return []
        of_query: dict[str, Any] = {key: x for key, x in options.items() if key != "max_length"}
        stored = None if precision in ("float32", "float16") else precision
        sides = self.encode_query(query, **of_query), self.encode_document(texts, **options)
        scores = self.similarity([sides[0]], sides[1], stored, options.get("ranges"))[0]
        return ranked(scores, texts, top_k, with_text=return_documents)
