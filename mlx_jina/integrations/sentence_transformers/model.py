"""The class: encoding and comparing with sentence-transformers' signatures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

import numpy as np

import mlx_jina
from mlx_jina import vectors
from mlx_jina.errors import InputError, some
from mlx_jina.integrations.sentence_transformers import checks, tensors
from mlx_jina.integrations.sentence_transformers.tensors import Embeddings, Precision, SimilarityName, as_tensor
from mlx_jina.options import check as check_options
from mlx_jina.text.prompts import Side
from mlx_jina.text.tokenizer import listed
from mlx_jina.vectors import Floats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina import Encoder
    from mlx_jina.options import EncodeOptions, Texts

OutputValue = Literal["sentence_embedding", "token_embeddings"]
# Prompt names of each side, best first; the model's first one is used.
SIDES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}

F = TypeVar("F", bound=Callable[..., Any])


class ModelOptions(TypedDict, total=False):
    """Options of the model's own modules: the task of v3, v5 and the code models."""

    task: str | None


def _renamed(**names: str) -> Callable[[F], F]:
    """Let a function take arguments by their names in earlier versions, too."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            for old, new in names.items():
                if old in options:
                    if new in options:
                        raise InputError(f"{old} is an earlier name of {new}; give one of them")
                    options[new] = options.pop(old)
            return function(*arguments, **options)

        return cast(F, call)

    return decorate


def _of_side(side: Side, encode: F) -> F:
    """`encode` for one side of retrieval, with the same arguments."""

    @_renamed(sentences="inputs")
    @functools.wraps(encode)
    def call(
        self: SentenceTransformer,
        inputs: str | Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *others: Any,
        **options: Any,
    ) -> Any:
        task, prompt_name = self._for_side(side, options.get("task"), prompt_name, prompt)
        return encode(self, inputs, prompt_name, prompt, *others, **{**options, "task": task})

    call.__name__ = f"encode_{side}"
    call.__doc__ = (
        f"`encode` with the {side} prompt, unless another is named, and for the model's task of that side."
    )
    return cast(F, call)


class SentenceTransformer:
    """A model of mlx-jina behind the methods of sentence-transformers' class."""

    @_renamed(tokenizer_kwargs="processor_kwargs")
    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        modules: None = None,
        device: str | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        model_card_data: None = None,
        backend: Literal["torch"] = "torch",
        similarity_fn_name: SimilarityName | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Load a model: any name, Hugging Face id, folder or .gguf that `mlx_jina.load` takes.

        - `device`: "mps", "cuda" or "cpu", if that is what MLX computes on in this process.
        - `prompts`: prefixes by name, besides the model's own or instead of them.
        - `cache_folder`: by default SENTENCE_TRANSFORMERS_HOME, or the usual Hugging Face cache.
        - `trust_remote_code`: code in a repository is never executed, trusted or not.
        - `token`: True or None, for the one that `hf auth login` saved or HF_TOKEN holds.
        - `model_kwargs`: `dtype` (or `torch_dtype`), `default_task` (fused into the weights), `device_map` (as
          `device`) and `attn_implementation` (any exact one: MLX has its own).
        - `processor_kwargs`: `model_max_length`, and `padding_side`, of which there is none.
        - `config_kwargs`: `attn_implementation`.

        Raises what `mlx_jina.load` raises, and InputError for what only torch could do.
        """
        if not isinstance(model_name_or_path, str):
            raise InputError("SentenceTransformer needs the name of a model, or a folder")
        check_options(
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            truncate_dim=truncate_dim,
        )
        checks.refuse("holds modules of torch, and is no model for MLX", modules=modules)
        checks.refuse("is for training and saving, which this class does not do", model_card_data=model_card_data)
        if backend != "torch":
            raise InputError(f"backend={backend!r}: there is one backend, MLX; leave the option out")
        if token not in (None, True) or use_auth_token not in (None, True):
            raise InputError("token: log in with `hf auth login`, or set HF_TOKEN in the environment")
        checks.device(device)
        task, dtype, max_length = checks.load_options(model_kwargs, processor_kwargs, config_kwargs)
        self.encoder: Encoder = mlx_jina.load(
            model_name_or_path,
            task=task,
            revision=revision,
            local_files_only=local_files_only,
            dtype=dtype,
            cache_dir=cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
        )
        own = self.encoder.loaded.prompts
        self.prompts: dict[str, str] = {"query": "", "document": "", **own.by_name, **(prompts or {})}
        """Prefixes by name."""
        saved = own.default_name if own.default_name in own.by_name else None
        self.default_prompt_name: str | None = default_prompt_name or saved
        """The name of the prompt that `encode` takes when the caller names none."""
        self._prompt(None, None)
        self.truncate_dim = truncate_dim
        """Dimensions that `encode` keeps when the caller names no number."""
        self._width(None)
        self.similarity_fn_name = "cosine" if similarity_fn_name is None else similarity_fn_name
        self.max_seq_length = max_length or self.encoder.max_length
        self._normalizes = checks.normalizes(self.encoder)

    def __repr__(self) -> str:
        return f"SentenceTransformer({self.encoder!r})"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"mlx-jina's SentenceTransformer encodes and compares, and has no {name!r}; its model is in `.encoder`"
        )

    # ---- encoding

    @_renamed(sentences="inputs")
    def encode(
        self,
        inputs: str | Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: None = None,
        **kwargs: Unpack[ModelOptions],
    ) -> Any:
        """Vectors of texts as NumPy: (N, D) for a list, (D,) for a str.

        - `prompt_name`, `prompt`: a prefix by name, or literally; else that of `self.default_prompt_name`.
        - `batch_size`: a positive number. Batches are made of tokens here: no result depends on it, nor memory.
        - `show_progress_bar`: None shows one on a terminal when the call takes longer than two seconds.
        - `output_value`: "token_embeddings" gives the states of a text's tokens, (L, D) for each text, and None a
          dict with these, `input_ids`, `attention_mask` and `sentence_embedding`.
        - `precision`: what is stored. 8-bit vectors are calibrated by all of the call, which must be two or more.
        - `convert_to_tensor`: one torch.Tensor. `convert_to_numpy=False`: a list with one for each text.
        - `device`: as in the constructor. `pool`, `chunk_size`: there is one process.
        - `truncate_dim`: any number of the first dimensions. `normalize_embeddings`: then to unit length.
        - `task`: one of the model's, in any spelling of Jina's API.

        Raises InputError for unusable texts and options, NumericalError if a vector is not finite. Texts longer
        than `self.max_seq_length` are cut with one TruncationWarning.
        """
        check_options(
            prompt_name=prompt_name,
            prompt=prompt,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )
        checks.call(batch_size, output_value, precision, device, pool, chunk_size)
        task = kwargs.pop("task", None)
        checks.nothing_else("encode", kwargs)
        if convert_to_tensor and tensors.torch() is None:
            raise InputError("convert_to_tensor=True needs torch, which is not installed; leave it out for NumPy")
        options: EncodeOptions = {
            "task": task,
            "prompt": self._prompt(prompt_name, prompt),
            "max_length": self.max_seq_length,
            "normalize_embeddings": False,
        }
        texts, width, show = listed(inputs), self._width(truncate_dim), show_progress_bar
        found: Any
        if output_value == "token_embeddings":
            states = [
                text.vectors for text in self.encoder.encode_tokens(texts, show_progress_bar=show, **options)
            ]
            found = tensors.quantized(states, precision)
            found = [as_tensor(rows) for rows in found] if precision == "float32" else found
        elif output_value is None:
            found = self._features(texts, options, width, show)
        else:
            rows = self._rows(texts, options, width, normalize_embeddings, show)
            (found,) = tensors.quantized([rows], precision) if texts else [np.array([])]
            if convert_to_tensor:
                found = as_tensor(found if texts else rows[0:0, 0])
            elif not convert_to_numpy:
                found = [as_tensor(row) for row in found]
        return found[0] if isinstance(inputs, str) else found

    encode_query = _of_side("query", encode)
    encode_document = _of_side("document", encode)

    # ---- comparing

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Any:
        """Similarities (N, M) of vectors (N, D) and (M, D) by `self.similarity_fn_name`, as a Tensor."""
        a, b = tensors.rows_of(embeddings1), tensors.rows_of(embeddings2)
        return as_tensor(tensors.MATRICES[self.similarity_fn_name](a, b))

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Any:
        """Similarities (N,) of the vectors of one (N, D) with those of another, row by row, as a Tensor."""
        a, b = tensors.rows_of(embeddings1), tensors.rows_of(embeddings2)
        return as_tensor(tensors.PAIRS[self.similarity_fn_name](a, b))

    @property
    def similarity_fn_name(self) -> SimilarityName:
        """What `similarity` computes: "cosine", "dot", or the negative distance "euclidean" or "manhattan"."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: SimilarityName) -> None:
        # sentence-transformers also takes a member of an enumeration.
        name = getattr(value, "value", value)
        if not isinstance(name, str) or name not in tensors.MATRICES:
            raise InputError(f"similarity_fn_name={name!r} is not one of {', '.join(tensors.MATRICES)}")
        self._similarity: SimilarityName = name

    # ---- facts

    def get_embedding_dimension(self) -> int:
        """Width of the vectors that `encode` gives."""
        return self._width(None)

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest text, special tokens included; longer ones are cut."""
        return self._max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        # Raises InputError for what the model cannot take.
        self.encoder.plan(task=next(iter(self.encoder.tasks), None), prompt="", max_length=value)
        self._max_length = value

    def get_max_seq_length(self) -> int:
        """`self.max_seq_length`."""
        return self.max_seq_length

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context, `encode` keeps `truncate_dim` dimensions."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    @property
    def device(self) -> Any:
        """The device of the tensors that `encode` returns: a torch.device, or its name without torch."""
        return torch.device("cpu") if (torch := tensors.torch()) else "cpu"

    def to(self, device: str) -> SentenceTransformer:
        """Return the model, if it computes on that device. Raises InputError otherwise."""
        checks.device(device)
        return self

    def eval(self) -> SentenceTransformer:
        """Return the model, which is always in evaluation mode."""
        return self

    # ---- from here on private

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is not None and name not in self.prompts:
            raise InputError(f"prompt_name={name!r} is unknown to this model (known: {some(self.prompts)})")
        return "" if name is None else self.prompts[name]

    def _for_side(
        self, side: Side, task: str | None, prompt_name: str | None, prompt: str | None
    ) -> tuple[str | None, str | None]:
        """The task and the prompt's name for a side of retrieval."""
        check_options(task=task, prompt_name=prompt_name, prompt=prompt)
        own = self.encoder.loaded.prompts
        task = own.task_of(side, task)
        if task is None and own.task_required and "retrieval" in own.tasks:
            task = "retrieval"
        if prompt_name is None and prompt is None:
            # v3 names these prompts after its tasks.
            prompt_name = next(name for name in (task, *SIDES[side]) if name in self.prompts)
        return task, prompt_name

    def _width(self, truncate_dim: int | None) -> int:
        wanted = self.truncate_dim if truncate_dim is None else truncate_dim
        return vectors.check_dimension(wanted, self.encoder.dimension, (), allow_untrained=True)

    def _rows(
        self, texts: Sequence[str], options: EncodeOptions, width: int, normalize: bool, show: bool | None
    ) -> Floats:
        """Vectors (N, width): normalised as by the model's modules, cut, then normalised for the caller."""
        rows: Floats = self.encoder.encode(texts, show_progress_bar=show, **options)
        rows = (vectors.normalize(rows) if self._normalizes else rows)[:, :width]
        return vectors.normalize(rows) if normalize else rows

    def _features(
        self, texts: Sequence[str], options: EncodeOptions, width: int, show: bool | None
    ) -> list[dict[str, Any]]:
        """The dictionary of features that the model's modules return for each text."""
        rows = self._rows(texts, options, width, False, show)
        tokens = self.encoder.encode_tokens(texts, show_progress_bar=show, **options)
        return [
            {
                "input_ids": as_tensor(text.ids.astype(np.int64)),
                "attention_mask": as_tensor(np.ones(len(text.ids), dtype=np.int64)),
                "token_embeddings": as_tensor(text.vectors),
                "sentence_embedding": as_tensor(row),
            }
            for text, row in zip(tokens, rows, strict=True)
        ]
