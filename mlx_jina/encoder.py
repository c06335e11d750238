"""Where tokens, model, pooling and vectors meet: the public `load` and `Encoder`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from tqdm import tqdm

from mlx_jina import device, hub, loading, models, prompts, vectors
from mlx_jina.catalog import Entry
from mlx_jina.errors import InputError
from mlx_jina.loading import Loaded
from mlx_jina.pipeline import Pipeline, Plan
from mlx_jina.vectors import Floats, Vectors
from mlx_jina.weights import checkpoint
from mlx_jina.worker import Worker


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
        self.max_length: int = model.max_length
        """Tokens of the longest text, special tokens included."""
        self.pooling: str = model.pooling
        """How token states become one vector: "mean" or "last"."""
        self.tasks: tuple[str, ...] = loaded.tasks
        """Tasks that can be asked for; empty if the model has one vector space for all."""
        own_dims = files.config.get("matryoshka_dims") or (entry.truncate_dims if entry else ())
        self.truncate_dims: tuple[int, ...] = tuple(own_dims)
        """Dimensions the model was trained to be cut to; empty if it was not."""
        self.prompts: dict[str, str] = dict(loaded.prompts)
        """Prefixes by name."""
        self.path: Path = files.path
        """Where the files are."""
        modules = [each for each in loaded.models.values() if isinstance(each, nn.Module)]
        arrays = {id(x): x for each in modules for x in dict(tree_flatten(each.parameters())).values()}
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
        plan = self.plan(
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
            for positions, rows in self.pipeline.windows(((i, items[i]) for i in order), plan, bar.update):
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
