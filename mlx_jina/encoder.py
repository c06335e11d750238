"""Where tokens, model, pooling and vectors meet: the public `load` and `Encoder`."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mlx_jina import batching, device, hub, loading, models, prompts, vectors
from mlx_jina.batching import Batch
from mlx_jina.errors import CheckpointError, InputError, NumericalError
from mlx_jina.loading import Loaded
from mlx_jina.tokens import Ids
from mlx_jina.vectors import Floats, Precision, Vectors
from mlx_jina.weights import checkpoint
from mlx_jina.worker import Worker

T = TypeVar("T")

# Texts that are tokenised, sorted and encoded together; the next ones are tokenised meanwhile.
WINDOW_TEXTS = 4096
# A window also closes at this many characters, so that a million long documents stream as well.
WINDOW_CHARACTERS = 4 << 20
# Forward passes queued on the worker: one runs, one waits.
QUEUED = 2


class TruncationWarning(UserWarning):
    """Some texts were longer than the model's limit and were cut."""


@dataclass(frozen=True)
class _Plan:
    """One call's options, checked once."""

    prefix: str
    max_length: int
    truncate: bool
    dimension: int
    normalize: bool
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int
    model: models.Model


def load(
    name: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    dtype: str | None = None,
    cache_dir: str | Path | None = None,
) -> Encoder:
    """Load a model by name ("v2-small-en"), Hugging Face id, or folder; "pocket" is inside the package.

    A snapshot that is complete in the Hugging Face cache is used without any network call. Code in a
    repository is never executed. `task` fuses that task's adapter into the weights, which is fastest and
    smallest; without it a model's adapters are all kept, and every call names its task. Use one of the two
    for one index: they differ by the fused weights' one rounding to the checkpoint's dtype. `dtype` is
    "float32", "float16" or "bfloat16"; by default the checkpoint's own on a GPU and float32 on a CPU.

    Raises ModelNotFoundError for a name that leads nowhere, CheckpointError for files that do not fit.
    """
    path = hub.resolve(str(name), revision, local_files_only, cache_dir, task)
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; a model is a folder with config.json and model.safetensors")
    worker = Worker()
    return Encoder(worker.run(loading.load, path, str(name), task, dtype), worker)


class Encoder:
    """A loaded model: texts in, NumPy vectors out. Made by `load`; safe to share between threads."""

    def __init__(self, loaded: Loaded, worker: Worker) -> None:
        files, entry = loaded.files, loaded.entry
        self._models = loaded.models
        self._model = model = next(iter(loaded.models.values()))
        self._default_prompt_name = loaded.default_prompt_name
        self._tokenizer = files.tokenizer
        self._worker = worker
        self._fingerprints: dict[str | None, str] = {}
        self.dtype: str = str(loaded.dtype).removeprefix("mlx.core.")
        self.dimension: int = model.dimension
        """Width of an untruncated vector."""
        self.max_length: int = model.max_length
        """Tokens of the longest text, special tokens included."""
        self.tasks: tuple[str, ...] = loaded.tasks
        """Tasks that can be asked for; empty if the model has one vector space for all."""
        own_dims = files.config.get("matryoshka_dims") or (entry.truncate_dims if entry else ())
        self.truncate_dims: tuple[int, ...] = tuple(own_dims)
        """Dimensions the model was trained to be cut to; empty if it was not."""
        self.prompts: dict[str, str] = dict(loaded.prompts)
        """Prefixes by name."""
        self.path: Path = files.path
        """Where the files are."""

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
        ranges: npt.ArrayLike | None = None,
        allow_untrained_dim: bool = False,
        inputs: str | Sequence[str] | None = None,
        sentences: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
    ) -> Vectors:
        """Vectors of texts: a list gives (N, D), one str gives (D,), an empty list (0, D).

        Shaped after sentence-transformers' `encode`; the one deliberate difference is that
        `normalize_embeddings` defaults to True, as in Jina's API.

        - `task`: one of `self.tasks`, or with its side as in Jina's API ("retrieval.query"). Needed unless
          the model was loaded for one task.
        - `prompt_name`, `prompt`: a prefix by name, or literally.
        - `truncate_dim`: keep the first dimensions, before the one normalisation; only sizes the model was
          trained for, unless `allow_untrained_dim`.
        - `max_length`: tokens per text, at most `self.max_length`. Longer texts are cut with one warning,
          or with `truncate=False` are an InputError naming the text.
        - `precision`: float32, float16, int8, uint8, binary or ubinary; see `vectors.quantize`. `ranges`
          (2, D) calibrates the 8-bit ones (`vectors.ranges_of`); by default they depend on no data.
        - `batch_tokens`: tokens per forward pass; a matter of speed and memory, not of results.
        - `show_progress_bar`: None shows one on a terminal when the call takes longer than two seconds.

        `inputs`, `sentences`, `batch_size`, `convert_to_numpy` and `device` are accepted for callers written
        for sentence-transformers; the last three change nothing.

        Raises InputError for unusable texts or options, NumericalError if a vector is not finite.
        """
        given = [value for value in (texts, inputs, sentences) if value is not None]
        if len(given) != 1:
            raise InputError("encode needs the texts exactly once, as `texts` (or `inputs`, or `sentences`)")
        if convert_to_tensor or not convert_to_numpy:
            raise InputError("encode returns NumPy arrays; use torch.from_numpy(...) on the result")
        plan = self._plan(
            task=task,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate_dim=truncate_dim,
            max_length=max_length,
            truncate=truncate,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            batch_tokens=batch_tokens,
            ranges=ranges,
            allow_untrained_dim=allow_untrained_dim,
        )
        single = isinstance(given[0], str)
        items = [given[0]] if isinstance(given[0], str) else list(given[0])
        columns, kind = vectors.layout(plan.dimension, plan.precision)
        out = np.empty((len(items), columns), dtype=kind)
        # Windows of similar lengths waste nothing, and characters stand in for tokens not yet known.
        order = sorted(range(len(items)), key=lambda i: -len(str(items[i])))
        with tqdm(
            total=len(items),
            desc="Encoding",
            unit=" texts",
            delay=2 if show_progress_bar is None else 0,
            disable=None if show_progress_bar is None else not show_progress_bar,
        ) as bar:
            for positions, rows in self._encode_windows(((i, items[i]) for i in order), plan, bar.update):
                out[positions] = rows
        return out[0] if single else out

    def encode_query(self, texts: str | Sequence[str] | None = None, **options: Any) -> Vectors:
        """`encode` with the model's query prompt, if it has one. Takes the same options."""
        return self._encode_side((prompts.QUERY,), texts, options)

    def encode_document(self, texts: str | Sequence[str] | None = None, **options: Any) -> Vectors:
        """`encode` with the model's document prompt, if it has one. Takes the same options."""
        return self._encode_side(prompts.DOCUMENTS, texts, options)

    def _encode_side(
        self, names: Sequence[str], texts: str | Sequence[str] | None, options: dict[str, Any]
    ) -> Vectors:
        if options.get("prompt_name") is None and options.get("prompt") is None:
            options["prompt_name"] = prompts.of_side(names, self.prompts, options.get("task"), self.tasks)
        return self.encode(texts, **options)

    def encode_stream(self, texts: Iterable[str], **options: Any) -> Iterator[Vectors]:
        """Encode texts from any iterable, in order, holding no more than two windows of them.

        Yields blocks (n, D) whose rows together are the texts in input order. Options as in `encode`.
        """
        plan = self._plan(**options)
        for _, rows in self._encode_windows(enumerate(texts), plan, lambda _: None):
            yield rows

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
        """Cosine similarities (N, M) of vectors (N, D) and (M, D)."""
        return vectors.similarity(a, b)

    # ---- tokens

    def tokenize(self, texts: str | Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, before any truncation."""
        items = [texts] if isinstance(texts, str) else list(texts)
        return [ids.tolist() for ids in self._tokenizer.encode(items)]

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
        if name not in self._fingerprints:
            model = self._model_for(name)
            assert isinstance(model, nn.Module)
            weights = self._worker.run(checkpoint.digest, model)
            parts = [weights, self._tokenizer.canonical(), model.pooling, self.prompts, "unit"]
            canonical = json.dumps(parts, sort_keys=True).encode()
            self._fingerprints[name] = hashlib.sha256(canonical).hexdigest()[:16]
        return self._fingerprints[name]

    # ---- from here on private

    def _model_for(self, task: str | None) -> models.Model:
        return self._models[task if task in self._models else None]

    def _plan(
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
    ) -> _Plan:
        name, prompt_name = prompts.choose_task(task, prompt_name, self.tasks, required=None not in self._models)
        dimension = self._check_dimension(truncate_dim, allow_untrained_dim)
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
        return _Plan(
            prefix=prompts.prefix(self.prompts, self._default_prompt_name, prompt_name, prompt),
            max_length=limit,
            truncate=truncate,
            dimension=dimension,
            normalize=normalize_embeddings,
            precision=checked,
            ranges=ranges,
            batch_tokens=batch_tokens or device.default_batch_tokens(),
            model=self._model_for(name),
        )

    def _check_dimension(self, truncate_dim: int | None, allow_untrained: bool) -> int:
        if truncate_dim is None:
            return self.dimension
        if not 1 <= truncate_dim <= self.dimension:
            raise InputError(f"truncate_dim={truncate_dim} must lie between 1 and {self.dimension}")
        trained = self.truncate_dims or (self.dimension,)
        if truncate_dim not in trained and not allow_untrained:
            sizes = ", ".join(map(str, trained)) if self.truncate_dims else "none: it has no Matryoshka training"
            raise InputError(
                f"truncate_dim={truncate_dim} is not a size that this model was trained for ({sizes}); "
                "allow_untrained_dim=True cuts anyway"
            )
        return truncate_dim

    def _encode_windows(
        self, items: Iterable[tuple[int, str]], plan: _Plan, advance: Callable[[int], object]
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Positions and finished vectors, window by window; the next is tokenised while one computes."""
        cut = 0
        waiting: deque[tuple[list[int], Future[list[Ids]]]] = deque()

        def finish() -> tuple[list[int], Vectors]:
            nonlocal cut
            positions, tokenized = waiting.popleft()
            ids = tokenized.result()
            cut += sum(len(text) > plan.max_length for text in ids)
            ids = [self._tokenizer.truncate(text, plan.max_length) for text in ids]
            return positions, self._finish(self._forward(ids, positions, plan, advance), plan)

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx-jina-tokens") as ahead:
            for window in _windows(items):
                positions = [position for position, _ in window]
                waiting.append((positions, ahead.submit(self._tokenize, window, plan)))
                if len(waiting) > 1:
                    yield finish()
            while waiting:
                yield finish()
        if cut:
            noun = "text was" if cut == 1 else "texts were"
            warnings.warn(
                f"{cut} {noun} longer than {plan.max_length} tokens and cut; truncate=False makes it an error",
                TruncationWarning,
                stacklevel=3,
            )

    def _tokenize(self, window: Sequence[tuple[int, str]], plan: _Plan) -> list[Ids]:
        positions = [position for position, _ in window]
        texts = [plan.prefix + text if isinstance(text, str) else text for _, text in window]
        ids = self._tokenizer.encode(texts, positions)
        for position, text in zip(positions, ids, strict=True):
            if not len(text):
                raise InputError(f"text {position} is empty, and this model adds no token of its own")
            if len(text) > plan.max_length and not plan.truncate:
                raise InputError(
                    f"text {position} has {len(text)} tokens, more than max_length={plan.max_length}; "
                    "truncate=True cuts it"
                )
        return ids

    def _forward(
        self, ids: Sequence[Ids], positions: Sequence[int], plan: _Plan, advance: Callable[[int], object]
    ) -> Floats:
        """Pooled vectors (N, D) of one window, checked: NaN, infinity and zero never leave."""
        pooled = np.empty((len(ids), self.dimension), dtype=np.float32)
        started: list[tuple[Batch, mx.array]] = []
        queue: deque[Future[tuple[Batch, Floats] | None]] = deque()

        def collect() -> None:
            if (done := queue.popleft().result()) is not None:
                batch, rows = done
                pooled[batch.order] = rows
                advance(len(rows))

        try:
            for batch in (*batching.batches(ids, plan.batch_tokens), None):
                queue.append(self._worker.submit(self._step, plan.model, started, batch))
                if len(queue) == QUEUED:
                    collect()
            while queue:
                collect()
        finally:
            for future in queue:
                future.cancel()
        for index in np.flatnonzero(~_usable(pooled)).tolist():
            pooled[index] = self._worker.run(self._retry, plan.model, ids[index], positions[index])
        return pooled

    def _step(
        self, model: models.Model, started: list[tuple[Batch, mx.array]], batch: Batch | None
    ) -> tuple[Batch, Floats] | None:
        """On the worker: start a batch, then return the one started before, so that a GPU never waits."""
        previous = started.pop() if started else None
        if batch is not None:
            pooled = model(mx.array(batch.ids), batch.runs)
            mx.async_eval(pooled)
            started.append((batch, pooled))
        return None if previous is None else (previous[0], np.array(previous[1]))

    def _retry(self, model: models.Model, ids: Ids, position: int) -> Floats:
        """On the worker: one text alone in float32, for a vector that came out unusable."""
        assert isinstance(model, nn.Module)
        if self.dtype != "float32":
            stored = model.parameters()
            model.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)
            try:
                batch = batching.flatten([ids], np.zeros(1, dtype=np.intp))
                pooled: Floats = np.array(model(mx.array(batch.ids), batch.runs))
            finally:
                model.update(stored)
            if _usable(pooled)[0]:
                return pooled[0]
        raise NumericalError(
            f"the vector of text {position} came out as NaN, infinite or zero, also in float32; the weights in "
            f"{self.path} are probably damaged"
        )

    def _finish(self, pooled: Floats, plan: _Plan) -> Vectors:
        cut = pooled[:, : plan.dimension]
        return vectors.quantize(vectors.normalize(cut) if plan.normalize else cut, plan.precision, plan.ranges)


def _usable(pooled: Floats) -> npt.NDArray[np.bool_]:
    """Which rows are finite and not zero."""
    norms = np.linalg.norm(pooled, axis=-1)
    good: npt.NDArray[np.bool_] = np.isfinite(norms) & (norms > 0)
    return good


def _windows(items: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Cut positions and texts into windows of bounded count and size."""
    window: list[tuple[int, str]] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += len(item[1]) if isinstance(item[1], str) else 0
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
