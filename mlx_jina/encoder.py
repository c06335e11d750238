"""Where tokens, model, pooling and vectors meet: the public `load` and `Encoder`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from mlx_jina import device, vectors
from mlx_jina.catalog import Entry
from mlx_jina.choices import ChunkKind
from mlx_jina.engine.late_chunking import (
    ChunkedDocument,
    TokenVectors,
    check_pooling,
    documents,
    joined,
    token_vectors,
)
from mlx_jina.engine.pipeline import Pipeline, Plan, longest_first, progress
from mlx_jina.engine.thread import Worker
from mlx_jina.errors import InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.text import prompts
from mlx_jina.text.chunking import Chunking
from mlx_jina.text.tokenizer import Token, listed
from mlx_jina.vectors import Floats, Vectors
from mlx_jina.weights import checkpoint, hub, loading
from mlx_jina.weights.loading import Loaded

# Our name for them, and sentence-transformers'.
_TOKEN_OUTPUTS = (("tokens", "sentence_embedding"), ("vectors", "token_embeddings"))


def load(
    name: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    dtype: str | None = None,
    cache_dir: str | Path | None = None,
) -> Encoder:
    """Load a model by name ("v2-small-en"), Hugging Face id, folder or .gguf; "pocket" is inside the package.

    A snapshot that is complete in the Hugging Face cache is used without any network call. Code in a
    repository is never executed. `task` fuses that task's adapter into the weights, which is fastest and
    smallest; without it a model's adapters are all kept, and every call names its task. Use one of the two
    for one index: they differ by the fused weights' one rounding to the checkpoint's dtype. `dtype` is
    "float32", "float16" or "bfloat16"; by default the checkpoint's own on a GPU and float32 on a CPU.

    Raises ModelNotFoundError for a name that leads nowhere, CheckpointError for files that do not fit.
    """
    device.check_dtype(dtype)
    path = hub.resolve(str(name), revision, local_files_only, cache_dir, task)
    worker = Worker()
    return Encoder(worker.run(loading.load, path, str(name), task, dtype), worker)


class Encoder:
    """A loaded model: texts in, NumPy vectors out. Made by `load`; safe to share between threads."""

    def __init__(self, loaded: Loaded, worker: Worker) -> None:
        files, entry = loaded.files, loaded.entry
        self.entry: Entry | None = entry
        """The catalog's row of the model, if it has one."""
        self._models = loaded.models
        self._model = model = next(iter(loaded.models.values()))
        self._default_prompt_name = loaded.default_prompt_name
        self._tokenizer = files.tokenizer
        self._worker = worker
        self.pipeline = Pipeline(files.tokenizer, worker)
        """What all texts go through; the server feeds it batches of its own."""
        self._fingerprints: dict[str | None, str] = {}
        self.dtype: str = str(loaded.dtype).removeprefix("mlx.core.")
        self.dimension: int = model.dimension
        """Width of an untruncated vector."""
        self.architecture: str = model.architecture
        """What kind of model it is, such as "jina_bert"."""
        self.max_length: int = model.max_length
        """Tokens of the longest text, special tokens included."""
        self.pooling: str = model.pooling
        """How token states become one vector: "mean" or "last"."""
        self.tasks: tuple[str, ...] = loaded.tasks
        """Tasks that can be asked for; empty if the model has one vector space for all."""
        self.truncate_dims: tuple[int, ...] = loaded.truncate_dims
        """Dimensions the model was trained to be cut to; empty if it was not."""
        self.prompts: dict[str, str] = dict(loaded.prompts)
        """Prefixes by name."""
        self.path: Path = files.path
        """Where the files are."""
        arrays = {
            id(x): x for own in loaded.models.values() for x in dict(tree_flatten(own.parameters())).values()
        }
        self.nbytes: int = sum(x.nbytes for x in arrays.values())
        """Bytes of its weights in memory."""

    def __repr__(self) -> str:
        return f"Encoder({str(self.path)!r}, dimension={self.dimension}, dtype={self.dtype!r})"

    # ---- encoding

    def encode(
        self,
        texts: str | Sequence[str] | None = None,
        task: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = True,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        batch_tokens: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        late_chunking: bool = False,
        output: str = "vectors",
        ranges: npt.ArrayLike | None = None,
        allow_untrained_dim: bool = False,
        inputs: str | Sequence[str] | None = None,
        sentences: str | Sequence[str] | None = None,
        output_value: str = "sentence_embedding",
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
    ) -> Vectors:
        """Vectors of texts: a list gives (N, D), one str gives (D,), an empty list (0, D).

        Shaped after sentence-transformers' `encode`; the one deliberate difference is that
        `normalize_embeddings` defaults to True, as in Jina's API.

        - `task`: one of `self.tasks`, or with its side as in Jina's API ("retrieval.query"). Needed unless
          the model was loaded for one task; v3 without one is its base model, as published.
        - `prompt_name`, `prompt`: a prefix by name, or literally.
        - `truncate_dim`: keep the first dimensions, before the one normalisation; only sizes the model was
          trained for, unless `allow_untrained_dim`.
        - `max_length`: tokens per text, at most `self.max_length`. Longer texts are cut with one warning,
          or with `truncate=False` are an InputError naming the text.
        - `precision`: float32, float16, int8, uint8, binary or ubinary; see `vectors.quantize`. `ranges`
          (2, D) calibrates the 8-bit ones (`vectors.ranges_of`); by default they depend on no data.
        - `batch_tokens`: tokens per forward pass; a matter of speed and memory, not of results.
        - `show_progress_bar`: None shows one on a terminal when the call takes longer than two seconds.
        - `late_chunking`: the texts are one document, joined by spaces, and each vector is that of a text within
          it, as in Jina's API; see `encode_chunks`, which also finds the chunks.
        - `output`: "tokens" is `encode_tokens`, which type checkers understand.

        `inputs`, `sentences`, `output_value`, `batch_size`, `convert_to_numpy` and `device` are accepted for
        callers written for sentence-transformers. "token_embeddings" as `output_value` gives the token vectors
        without more, (L, D) for each text; the last three change nothing.

        Raises InputError for unusable texts or options, NumericalError if a vector is not finite.
        """
        given = [value for value in (texts, inputs, sentences) if value is not None]
        if len(given) != 1:
            raise InputError("encode needs the texts exactly once, as `texts` (or `inputs`, or `sentences`)")
        if convert_to_tensor or not convert_to_numpy:
            raise InputError("encode returns NumPy arrays; use torch.from_numpy(...) on the result")
        options: dict[str, Any] = {
            "task": task,
            "prompt_name": prompt_name,
            "prompt": prompt,
            "truncate_dim": truncate_dim,
            "max_length": max_length,
            "truncate": truncate,
            "normalize_embeddings": normalize_embeddings,
            "precision": precision,
            "batch_tokens": batch_tokens,
            "ranges": ranges,
            "allow_untrained_dim": allow_untrained_dim,
        }
        if (output, output_value) != ("vectors", "sentence_embedding"):
            if late_chunking or (output, output_value) not in _TOKEN_OUTPUTS:
                asked = f"output={output!r}, output_value={output_value!r}, late_chunking={late_chunking}"
                raise InputError(f"{asked} do not fit together; output='tokens' alone gives token vectors")
            tokens: Any = self.encode_tokens(given[0], show_progress_bar=show_progress_bar, **options)
            if output_value == "token_embeddings":
                tokens = [text.vectors for text in tokens] if isinstance(tokens, list) else tokens.vectors
            return tokens
        plan = self.plan(**options)
        items = listed(given[0])
        with progress(len(items), show_progress_bar) as bar:
            if late_chunking:
                out = joined(self.pipeline, items, plan, bar.update)
            else:
                columns, kind = vectors.layout(plan.dimension, plan.precision)
                out = np.empty((len(items), columns), dtype=kind)
                for positions, rows in self.pipeline.windows(longest_first(items), plan, bar.update):
                    out[positions] = rows
        return out[0] if isinstance(given[0], str) else out

    @overload
    def encode_tokens(self, texts: str, **options: Any) -> TokenVectors: ...

    @overload
    def encode_tokens(self, texts: Sequence[str], **options: Any) -> list[TokenVectors]: ...

    def encode_tokens(
        self, texts: str | Sequence[str], *, show_progress_bar: bool | None = None, **options: Any
    ) -> TokenVectors | list[TokenVectors]:
        """The vectors of every token, which have seen the whole text, and the characters each one stands for.

        For late interaction, or pooling of one's own, which wants `normalize_embeddings=False`. Options as in
        `encode`, and texts are cut to `max_length` as there.
        """
        items = listed(texts)
        plan = self.plan(**options)
        found: dict[int, TokenVectors] = {}
        with progress(len(items), show_progress_bar) as bar:
            for positions, block in token_vectors(self.pipeline, longest_first(items), plan, bar.update):
                found.update(zip(positions, block, strict=True))
        return found[0] if isinstance(texts, str) else [found[i] for i in range(len(items))]

    def encode_query(self, texts: str | Sequence[str] | None = None, **options: Any) -> Vectors:
        """`encode` with the model's query prompt, if it has one. Takes the same options."""
        return self._encode_side((prompts.QUERY,), texts, options)

    def encode_document(self, texts: str | Sequence[str] | None = None, **options: Any) -> Vectors:
        """`encode` with the model's document prompt, if it has one. Takes the same options."""
        return self._encode_side(prompts.DOCUMENTS, texts, options)

    def _encode_side(
        self, names: Sequence[str], texts: str | Sequence[str] | None, options: dict[str, Any]
    ) -> Vectors:
        options["task"] = prompts.task_of_side(names, options.get("task"), self.tasks)
        if options.get("prompt_name") is None and options.get("prompt") is None:
            options["prompt_name"] = prompts.of_side(names, self.prompts, options.get("task"), self.tasks)
        return self.encode(texts, **options)

    def encode_stream(
        self, texts: Iterable[str], *, advance: Callable[[int], object] = int, **options: Any
    ) -> Iterator[Vectors]:
        """Encode texts from any iterable, in order, holding no more than two windows of them.

        Yields blocks (n, D) whose rows together are the texts in input order. `advance` is told how many texts
        are done after each forward pass, which is long before their block is full. Options as in `encode`.
        """
        plan = self.plan(**options)
        for _, rows in self.pipeline.windows(enumerate(texts), plan, advance):
            yield rows

    @overload
    def encode_chunks(self, texts: str, chunk: ChunkKind = "sentence", **options: Any) -> ChunkedDocument: ...

    @overload
    def encode_chunks(
        self, texts: Sequence[str], chunk: ChunkKind = "sentence", **options: Any
    ) -> list[ChunkedDocument]: ...

    def encode_chunks(
        self,
        texts: str | Sequence[str],
        chunk: ChunkKind = "sentence",
        *,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> ChunkedDocument | list[ChunkedDocument]:
        """Each document cut into chunks, with one vector per chunk: a list of documents gives a list.

        - `chunk`: "sentence" or "paragraph" (ended by a blank line) takes as many to a chunk as fit in
          `chunk_tokens`, and what is too long by itself is cut at the next finer boundary; "fixed" does so with
          words. Needs `pip install 'mlx-jina[chunking]'`.
        - `chunk_tokens`: tokens of a chunk, 256 by default, special ones not counted. None makes every sentence
          or paragraph a chunk of its own.
        - `overlap`: tokens, at most, that a chunk shares with the one before; whole sentences where they fit.
        - `language`: whose abbreviations end no sentence ("en"); boundaries work for every script.
        - `late`: pool each chunk from the token states of the whole document (late chunking, arXiv 2409.04701).
          A document longer than `max_length` is run in overlapping windows; nothing is cut off. False embeds each
          chunk alone, with the prompt in front. Last-token models can only do that, and raise InputError.

        The other options are those of `encode`. Joining `chunk.text` of all chunks gives the document back,
        character by character, unless they overlap.
        """
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
        **options: Any,
    ) -> Iterator[list[ChunkedDocument]]:
        """`encode_chunks` of documents from any iterable, in order, holding no more than two windows of them."""
        how = Chunking(chunk, chunk_tokens, overlap, language)
        plan = self.plan(**options)
        if late:
            check_pooling(plan.model)
        return documents(self.pipeline, enumerate(texts), plan, how, late, advance)

    def similarity(
        self,
        a: npt.ArrayLike,
        b: npt.ArrayLike,
        precision: str | None = None,
        ranges: npt.ArrayLike | None = None,
    ) -> Floats:
        """Cosine similarities (N, M) of vectors (N, D) and (M, D), quantised ones too: `vectors.similarity`."""
        return vectors.similarity(a, b, precision, ranges)

    # ---- tokens

    def tokenize(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, before any truncation."""
        return [ids.tolist() for ids in self._tokenizer.encode(listed(texts))]

    def tokens(self, texts: str | Sequence[str], special_tokens: bool = True) -> list[list[Token]]:
        """Each text's tokens with their places in it, in characters: what a chunker needs."""
        return self._tokenizer.tokens(listed(texts), special_tokens)

    def count_tokens(self, texts: str | Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included; compare with `max_length`."""
        return [len(ids) for ids in self.tokenize(texts)]

    # ---- the names sentence-transformers' callers use

    def get_embedding_dimension(self) -> int:
        """`self.dimension`."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def get_max_seq_length(self) -> int:
        """`self.max_length`."""
        return self.max_length

    # ---- identity

    def fingerprint(self, task: str | None = None) -> str:
        """Sixteen hex digits that tell an index which vectors may be mixed: those of equal fingerprints.

        They cover weights (as values, whatever the file format), tokenizer, pooling, prompts and normalisation.
        A model that keeps several tasks has one for each.
        """
        name, _ = prompts.choose_task(task, None, self.tasks, required=None not in self._models)
        # Tasks that differ by a prompt alone share weights, and their vectors a space.
        name = name if name in self._models else None
        if name not in self._fingerprints:
            model = self._model_for(name)
            weights = self._worker.run(checkpoint.digest, model)
            parts = [weights, self._tokenizer.canonical(), model.pooling, self.prompts, "unit"]
            canonical = json.dumps(parts, sort_keys=True).encode()
            self._fingerprints[name] = hashlib.sha256(canonical).hexdigest()[:16]
        return self._fingerprints[name]

    def plan(
        self,
        *,
        task: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = True,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        batch_tokens: int | None = None,
        ranges: npt.ArrayLike | None = None,
        allow_untrained_dim: bool = False,
    ) -> Plan:
        """The options of `encode`, checked. Raises InputError."""
        name, prompt_name = prompts.choose_task(task, prompt_name, self.tasks, required=None not in self._models)
        dimension = vectors.check_dimension(truncate_dim, self.dimension, self.truncate_dims, allow_untrained_dim)
        checked = vectors.check_precision(precision)
        if checked.endswith("int8") and ranges is None and not normalize_embeddings:
            raise InputError(f"precision={precision!r} without normalisation needs `ranges` (vectors.ranges_of)")
        limit = self.max_length if max_length is None else max_length
        if not self._tokenizer.special_tokens < limit <= self.max_length:
            raise InputError(
                f"max_length={max_length} must lie between {self._tokenizer.special_tokens + 1} and this "
                f"model's {self.max_length}"
            )
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens={batch_tokens} must be at least 1")
        return Plan(
            prefix=prompts.prefix(self.prompts, self._default_prompt_name, prompt_name, prompt, name, self.tasks),
            max_length=limit,
            truncate=truncate,
            dimension=dimension,
            normalize=normalize_embeddings,
            precision=checked,
            ranges=ranges,
            batch_tokens=batch_tokens or device.default_batch_tokens(),
            model=self._model_for(name),
        )

    # ---- from here on private

    def _model_for(self, task: str | None) -> EncoderModel:
        return self._models[task if task in self._models else None]
