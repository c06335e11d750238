"""The public `load` and `Encoder`: where tokens, model, pooling and vectors meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import numpy.typing as npt

from mlx_jina import vectors
from mlx_jina.choices import OUTPUTS, ChunkKind, Dtype, Output, Precision
from mlx_jina.engine import plan as plans
from mlx_jina.engine.late_chunking import ChunkedDocument, check_pooling, documents, joined
from mlx_jina.engine.loaded_model import LoadedModel
from mlx_jina.engine.opening import opened
from mlx_jina.engine.origin import Origin
from mlx_jina.engine.pipeline import longest_first, progress
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.token_vectors import TokenVectors, token_vectors
from mlx_jina.errors import InputError
from mlx_jina.multi_vector import MultiVectorEncoder
from mlx_jina.options import EncodeOptions
from mlx_jina.options import check as check_options
from mlx_jina.text.chunking import Chunk, Chunking
from mlx_jina.text.prompts import Side
from mlx_jina.text.tokenizer import Token, listed, many
from mlx_jina.text.tokenizer import check as check_texts
from mlx_jina.vectors import AnyRows, AnyVector, FloatRows, Floats, FloatVector, Vectors
from mlx_jina.vision import images as pictures
from mlx_jina.vision.images import AnyPictures, Image
from mlx_jina.weights import loading

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import ChunkOptions, PictureOptions, Texts, TokenOptions, VectorOptions

__all__ = ["Chunk", "ChunkedDocument", "Encoder", "Image", "Token", "TokenVectors", "load"]

# The default precision apart, so that type checkers know that float32 comes out.
Float32 = Literal["float32"]


def load(
    name: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    dtype: Dtype | None = None,
    cache_dir: str | Path | None = None,
    as_model: str | None = None,
) -> Encoder:
    """Load a model by name ("v2-small-en"), Hugging Face id, folder or .gguf; "pocket" is inside the package.

    - `task`: fuse this task's adapter into the weights, which is fastest and smallest. Without a task all adapters
      are kept, and every call names its task. Use one of the two ways for one index: fusing rounds the weights
      once more, to the checkpoint's dtype.
    - `revision`: branch, tag or commit on the Hugging Face hub; by default the cached one, else the hub's main.
    - `local_files_only`: never download. A snapshot that is complete in the cache is used without any network
      call in any case.
    - `dtype`: what to compute in; by default the checkpoint's own on a GPU and float32 on a CPU.
    - `cache_dir`: the Hugging Face cache to use instead of the usual one.
    - `as_model`: which published model the files are, whose prompts, tasks and sizes they then have. A .gguf of
      another program mostly says so by itself; `mlx-jina info` shows what was recognised, and a warning what not.

    Code in a repository is never executed. `load` changes nothing that other code in the process depends on: MLX's
    cache of freed memory, which grows with every new length of text, stays as large as MLX allows. A program that
    embeds for long bounds this cache with `mlx_jina.limit_cache`.

    Raises ModelNotFoundError for a name that leads nowhere, CheckpointError for files that do not fit.
    """
    parts = opened(
        "embedding",
        name,
        task=task,
        revision=revision,
        local_files_only=local_files_only,
        dtype=dtype,
        cache_dir=cache_dir,
        as_model=as_model,
    )
    return Encoder(*parts)


class Encoder(LoadedModel):
    """A loaded model: texts in, NumPy vectors out. Made by `load`; safe to share between threads.

    A copy is the model itself. Pickled, a model is its name and the options of `load`.
    """

    @classmethod
    def _load_again(cls, origin: Origin) -> Encoder:
        return load(**origin._asdict())

    @cached_property
    def multi_vector(self) -> MultiVectorEncoder:
        """The same weights for late interaction, with a vector for each token; only jina-embeddings-v4 has both.

        Raises CheckpointError for a model without vectors of tokens.
        """
        return MultiVectorEncoder(loading.for_tokens(self.loaded), self._thread, self._origin)

    # ---- vectors of texts

    @overload
    def encode(self, texts: str, *, precision: Float32 = ..., **options: Unpack[VectorOptions]) -> FloatVector: ...

    @overload
    def encode(self, texts: Texts, *, precision: Float32 = ..., **options: Unpack[VectorOptions]) -> FloatRows: ...

    @overload
    def encode(self, texts: str, *, precision: Precision, **options: Unpack[VectorOptions]) -> AnyVector: ...

    @overload
    def encode(self, texts: Texts, *, precision: Precision, **options: Unpack[VectorOptions]) -> AnyRows: ...

    @overload
    def encode(
        self, texts: str, *, output: Literal["tokens"], **options: Unpack[TokenOptions]
    ) -> TokenVectors: ...

    @overload
    def encode(
        self, texts: Texts, *, output: Literal["tokens"], **options: Unpack[TokenOptions]
    ) -> list[TokenVectors]: ...

    def encode(
        self,
        texts: str | Texts,
        *,
        task: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        allow_untrained_dim: bool = False,
        max_length: int | None = None,
        truncate: bool = True,
        normalize_embeddings: bool = True,
        precision: Precision = "float32",
        ranges: npt.ArrayLike | None = None,
        batch_tokens: int | None = None,
        max_pixels: int | None = None,
        late_chunking: bool = False,
        output: Output = "vectors",
        show_progress_bar: bool | None = None,
    ) -> Vectors | TokenVectors | list[TokenVectors]:
        """Vectors of texts: a list gives (N, D), one str gives (D,), an empty list (0, D).

        A list for a model that sees (v4, v5-omni) may have pictures among its texts, each as an `Image` or as
        Pillow's.

        - `task`: one of `self.tasks`, or with its side as in Jina's API ("retrieval.query"). Needed unless
          the model was loaded for one task; v3 without one is its base model, as published.
        - `prompt_name`, `prompt`: a prefix by name, or literally.
        - `truncate_dim`: keep the first dimensions, before the one normalisation; only sizes the model was
          trained for, unless `allow_untrained_dim`.
        - `max_length`: tokens per text, at most `self.max_length`. Longer texts are cut with one
          TruncationWarning, or with `truncate=False` are a TooLongError that names the text.
        - `normalize_embeddings`: scale vectors to unit length, the default as in Jina's API.
        - `precision`: what is stored; see `vectors.quantize`. `ranges` (2, D) calibrates the 8-bit ones
          (`vectors.ranges_of`); by default they depend on no data. Bits are packed, eight to a byte.
        - `batch_tokens`: tokens per forward pass; a matter of speed and memory, not of results.
        - `max_pixels`: of pictures among the texts; see `encode_images`.
        - `late_chunking`: the texts are one document, joined by spaces, and each vector is that of a text within
          it, as in Jina's API; see `encode_chunks`, which also finds the chunks.
        - `output`: "tokens" is `encode_tokens`.
        - `show_progress_bar`: None shows one on a terminal when the call takes longer than two seconds.

        Raises InputError for unusable texts or options (`error.position` is the index of the text at fault), and
        NumericalError if a vector is not finite. Code written for sentence-transformers finds its names and
        defaults in `mlx_jina.integrations.sentence_transformers`.
        """
        options: EncodeOptions = {
            "task": task,
            "prompt_name": prompt_name,
            "prompt": prompt,
            "truncate_dim": truncate_dim,
            "allow_untrained_dim": allow_untrained_dim,
            "max_length": max_length,
            "truncate": truncate,
            "normalize_embeddings": normalize_embeddings,
            "precision": precision,
            "ranges": ranges,
            "batch_tokens": batch_tokens,
            "max_pixels": max_pixels,
        }
        check_options(output=output, late_chunking=late_chunking, show_progress_bar=show_progress_bar)
        if output not in OUTPUTS:
            raise InputError(f"output={output!r} is not one of {', '.join(OUTPUTS)}")
        if output == "tokens":
            if late_chunking:
                raise InputError("late_chunking=True gives one vector for each text; output='tokens' does not fit")
            return self.encode_tokens(texts, show_progress_bar=show_progress_bar, **options)
        plan = self.plan(**options)
        if not isinstance(texts, str):
            texts = list(many(texts))
            if any(map(pictures.is_picture, texts)):
                return self._mixed(texts, plan, late_chunking, show_progress_bar)
        if isinstance(texts, str) and not late_chunking:
            return self.pipeline.one(texts, plan)[0]
        items = listed(texts)
        with progress(len(items), show_progress_bar) as bar:
            if late_chunking:
                out = joined(self.pipeline, items, plan, bar.update)
            else:
                columns, kind = vectors.layout(plan.dimension, plan.precision)
                out = np.empty((len(items), columns), dtype=kind)
                for positions, rows in self.pipeline.windows(longest_first(items), plan, bar.update):
                    out[positions] = rows
        return out[0] if isinstance(texts, str) else out

    @overload
    def encode_query(
        self, texts: str, *, precision: Float32 = ..., **options: Unpack[VectorOptions]
    ) -> FloatVector: ...

    @overload
    def encode_query(
        self, texts: Texts, *, precision: Float32 = ..., **options: Unpack[VectorOptions]
    ) -> FloatRows: ...

    @overload
    def encode_query(self, texts: str, *, precision: Precision, **options: Unpack[VectorOptions]) -> AnyVector: ...

    @overload
    def encode_query(self, texts: Texts, *, precision: Precision, **options: Unpack[VectorOptions]) -> AnyRows: ...

    def encode_query(
        self, texts: str | Texts, *, precision: Precision = "float32", **options: Unpack[VectorOptions]
    ) -> Vectors:
        """`encode` queries: with the prompt and the task that the model has for queries, if it has any."""
        return self.encode(texts, precision=precision, **self._for_side("query", options))

    @overload
    def encode_document(
        self, texts: str, *, precision: Float32 = ..., **options: Unpack[VectorOptions]
    ) -> FloatVector: ...

    @overload
    def encode_document(
        self, texts: Texts, *, precision: Float32 = ..., **options: Unpack[VectorOptions]
    ) -> FloatRows: ...

    @overload
    def encode_document(
        self, texts: str, *, precision: Precision, **options: Unpack[VectorOptions]
    ) -> AnyVector: ...

    @overload
    def encode_document(
        self, texts: Texts, *, precision: Precision, **options: Unpack[VectorOptions]
    ) -> AnyRows: ...

    def encode_document(
        self, texts: str | Texts, *, precision: Precision = "float32", **options: Unpack[VectorOptions]
    ) -> Vectors:
        """`encode` documents: with the prompt and the task that the model has for documents, if it has any."""
        return self.encode(texts, precision=precision, **self._for_side("document", options))

    def _for_side(self, side: Side, options: VectorOptions) -> VectorOptions:
        # `encode` checks the other options, and refuses unknown ones.
        check_options(**{key: options.get(key) for key in ("task", "prompt_name", "prompt")})
        prompts, name = self.loaded.prompts, options.get("prompt_name")
        task = prompts.task_of(side, options.get("task"))
        if name is None and options.get("prompt") is None:
            name = prompts.name_of(side, task)
        return {**options, "task": task, "prompt_name": name}

    def _mixed(self, items: list[str], plan: Plan, late_chunking: bool, show_progress_bar: bool | None) -> Vectors:
        """Vectors of a list in which some items are pictures."""
        if late_chunking:
            raise InputError("late_chunking=True takes the texts of one document, and no pictures")
        seen = [(i, item) for i, item in enumerate(items) if pictures.is_picture(item)]
        places = [i for i, item in enumerate(items) if not pictures.is_picture(item)]
        texts = [items[i] for i in places]
        check_texts(texts, places)
        columns, kind = vectors.layout(plan.dimension, plan.precision)
        out = np.empty((len(items), columns), dtype=kind)
        with progress(len(items), show_progress_bar) as bar:
            for positions, rows in self.pipeline.windows(zip(places, texts, strict=True), plan, bar.update):
                out[positions] = rows
            for position, rows in self.rows_of_images(seen, plan, bar.update).items():
                out[position] = rows
        return out

    def encode_images(
        self,
        images: AnyPictures,
        *,
        max_pixels: int | None = None,
        show_progress_bar: bool | None = None,
        **options: Unpack[PictureOptions],
    ) -> Vectors:
        """Vectors of pictures, in the space of the texts: a list gives (N, D), one picture gives (D,).

        Only jina-embeddings-v4 and -v5-omni see pictures.

        A picture is a path, the bytes of a file, an image of Pillow's, an array (height, width, 3) of uint8, or
        an `Image` of one of these. All but arrays need `pip install 'mlx-jina[images]'`. v4's pictures have a task
        and no prompt, so queries and documents are alike; v5-omni's have the prompts of texts. No EXIF tag turns a
        picture, and transparency is dropped, as in the models' own code. The vision tower is read for the first
        picture.

        - `max_pixels`: resize pictures to at most so many pixels; by default the checkpoint's own limit. Fewer are
          faster and less sharp, and move the vectors.

        The other options are those of `encode`. Raises PictureError for a picture that cannot be used
        (`error.position` is its index), CheckpointError for a model that sees no pictures.
        """
        check_options(max_pixels=max_pixels, show_progress_bar=show_progress_bar, **options)
        items = pictures.listed(images)
        plan = self.plan(max_pixels=max_pixels, **options)
        with progress(len(items), show_progress_bar) as bar:
            found = self.rows_of_images(enumerate(items), plan, bar.update)
        columns, kind = vectors.layout(plan.dimension, plan.precision)
        out = np.concatenate([np.empty((0, columns), dtype=kind), *(found[i] for i in range(len(items)))])
        return out[0] if pictures.is_one(images) else out

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        advance: Callable[[int], object] = int,
        shortened: Callable[[int], object] = int,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[Vectors]:
        """Encode texts and pictures from any iterable, in order, holding no more than two windows of them.

        Yields blocks (n, D), whose rows follow the order of the texts. After each forward pass `advance` is called
        with the number of texts that this pass finished, long before their block is full; `shortened` is called
        with the position of each text that is cut. Options as in `encode`.
        """
        check_options(advance=advance, shortened=shortened)
        plan = self.plan(**options)
        for seen, items in groupby(enumerate(many(texts)), lambda item: pictures.is_picture(item[1])):
            if seen:
                for _, found in self.windows_of_images(items, plan, advance):
                    yield np.concatenate([picture.vectors for picture in found])
            else:
                for _, rows in self.pipeline.windows(items, plan, advance, shortened):
                    yield rows

    # ---- vectors of tokens and of chunks

    @overload
    def encode_tokens(self, texts: str, **options: Unpack[TokenOptions]) -> TokenVectors: ...

    @overload
    def encode_tokens(self, texts: Texts, **options: Unpack[TokenOptions]) -> list[TokenVectors]: ...

    def encode_tokens(
        self, texts: str | Texts, *, show_progress_bar: bool | None = None, **options: Unpack[EncodeOptions]
    ) -> TokenVectors | list[TokenVectors]:
        """A vector for every token, from the whole text, and the characters that each token stands for.

        Late interaction needs these vectors, as does pooling of your own (with `normalize_embeddings=False`).
        Options as in `encode`, which also says how texts are cut to `max_length`.
        """
        check_options(show_progress_bar=show_progress_bar)
        items = listed(texts)
        plan = self.plan(**options)
        found: dict[int, TokenVectors] = {}
        with progress(len(items), show_progress_bar) as bar:
            for positions, block in token_vectors(self.pipeline, longest_first(items), plan, bar.update):
                found.update(zip(positions, block, strict=True))
        return found[0] if isinstance(texts, str) else [found[i] for i in range(len(items))]

    @overload
    def encode_chunks(
        self,
        texts: str,
        chunk: ChunkKind = ...,
        *,
        show_progress_bar: bool | None = ...,
        **options: Unpack[ChunkOptions],
    ) -> ChunkedDocument: ...

    @overload
    def encode_chunks(
        self,
        texts: Texts,
        chunk: ChunkKind = ...,
        *,
        show_progress_bar: bool | None = ...,
        **options: Unpack[ChunkOptions],
    ) -> list[ChunkedDocument]: ...

    def encode_chunks(
        self,
        texts: str | Texts,
        chunk: ChunkKind = "sentence",
        *,
        show_progress_bar: bool | None = None,
        **options: Unpack[ChunkOptions],
    ) -> ChunkedDocument | list[ChunkedDocument]:
        """Each document cut into chunks, with one vector per chunk: a list of documents gives a list.

        - `chunk`: with "sentence" or "paragraph" (which a blank line ends), a chunk has as many sentences or
          paragraphs as fit in `chunk_tokens`, and one that does not fit is cut at the next finer boundary. With
          "fixed" a chunk has as many words as fit. Needs `pip install 'mlx-jina[chunking]'`.
        - `chunk_tokens`: tokens of a chunk at most, 256 by default, special tokens not counted. None makes every
          sentence or paragraph a chunk of its own.
        - `overlap`: tokens, at most, that a chunk shares with the one before; whole sentences where they fit.
        - `language`: whose abbreviations end no sentence ("en"); boundaries work for every script.
        - `late`: pool each chunk from the token states of the whole document (late chunking, arXiv 2409.04701). A
          document longer than `max_length` is run in overlapping windows; nothing is cut off. False embeds each
          chunk alone, with the prompt in front. Models that pool their last token need False: True is an
          InputError.

        The other options are those of `encode`. Joining `chunk.text` of all chunks gives the document back,
        character by character, unless they overlap.
        """
        check_options(show_progress_bar=show_progress_bar)
        items = listed(texts)
        with progress(len(items), show_progress_bar) as bar:
            blocks = self.encode_chunks_stream(items, chunk, advance=bar.update, **options)
            out = [document for block in blocks for document in block]
        return out[0] if isinstance(texts, str) else out

    def encode_chunks_stream(
        self,
        texts: Iterable[str],
        chunk: ChunkKind = "sentence",
        *,
        chunk_tokens: int | None = 256,
        overlap: int = 0,
        late: bool = True,
        language: str = "en",
        advance: Callable[[int], object] = int,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[list[ChunkedDocument]]:
        """`encode_chunks` of documents from any iterable, in order, holding no more than two windows of them."""
        check_options(
            chunk=chunk, chunk_tokens=chunk_tokens, overlap=overlap, late=late, language=language, advance=advance
        )
        how = Chunking(chunk, chunk_tokens, overlap, language)
        plan = self.plan(**options)
        if late:
            check_pooling(plan.model)
        return documents(self.pipeline, enumerate(many(texts)), plan, how, late, advance)

    def plan(self, **options: Unpack[EncodeOptions]) -> Plan:
        """Check the options of `encode`, and keep them for the texts to come. Raises InputError."""
        # What is no option of `encode` at all is a TypeError below.
        check_options(**{name: value for name, value in options.items() if name in EncodeOptions.__annotations__})
        return plans.make(self.loaded, **options)

    def similarity(
        self,
        a: npt.ArrayLike,
        b: npt.ArrayLike,
        precision: Precision | None = None,
        ranges: npt.ArrayLike | None = None,
    ) -> Floats:
        """Cosine similarities (N, M) of vectors (N, D) and (M, D), quantised ones too: `vectors.similarity`."""
        return vectors.similarity(a, b, precision, ranges)
