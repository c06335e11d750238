"""The common part of all loaded models: facts, tokens and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlx.utils import tree_flatten

from mlx_jina.catalog import Entry, Kind
from mlx_jina.engine.origin import Known, Origin
from mlx_jina.engine.pipeline import Pipeline
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.thread import ModelThread
from mlx_jina.options import check as check_options
from mlx_jina.text.tokenizer import Token, listed
from mlx_jina.vectors import Vectors
from mlx_jina.weights import checkpoint
from mlx_jina.weights.loading import Loaded

if TYPE_CHECKING:
    from typing_extensions import Self

    from mlx_jina.engine.pictures import Seen
    from mlx_jina.options import Texts


class LoadedModel:
    """A model in memory and the thread that it runs on; safe to share between threads.

    A copy is the model itself. Pickled, a model is its name and the options that it was loaded with, by which
    another process loads it again, once for any number of times that it arrives there.
    """

    def __init__(self, loaded: Loaded, thread: ModelThread, origin: Origin) -> None:
        self._origin = origin
        self.loaded = loaded
        """What was read from the files."""
        self.pipeline = Pipeline(loaded.files.tokenizer, thread, loaded.budget.batch_tokens)
        """What all texts go through; the server feeds it batches of its own."""
        self._tokenizer = loaded.files.tokenizer
        self._thread = thread
        self._fingerprints: dict[str | None, str] = {}
        model = next(iter(loaded.models.values()))
        self.entry: Entry | None = loaded.entry
        """The model's row in the catalog, if there is one."""
        self.path: Path = loaded.files.path
        """The folder, or the .gguf, with the model's files."""
        self.kind: Kind = model.kind
        """What the model gives for a text: "embedding" or "multi-vector"."""
        self.architecture: str = model.architecture
        """The architecture, such as "jina_bert"."""
        self.dtype: str = str(loaded.dtype).removeprefix("mlx.core.")
        """The dtype that the model computes in."""
        self.dimension: int = model.dimension
        """Width of an untruncated vector."""
        self.truncate_dims: tuple[int, ...] = loaded.truncate_dims
        """Sizes that the model was trained to be cut to; empty for a model without Matryoshka."""
        self.max_length: int = model.max_length
        """Tokens of the longest text, special tokens included."""
        self.pooling: str = model.pooling
        """How token states become one vector: "mean" or "last", or "none" where each token has its own."""
        self.tasks: tuple[str, ...] = loaded.prompts.tasks
        """Tasks that a call can name; empty for a model with one vector space."""
        self.prompts: dict[str, str] = loaded.prompts.by_name
        """Prefixes by name."""
        trees = [dict(tree_flatten(each.parameters())) for each in loaded.models.values()]
        arrays = {id(x): x for tree in trees for x in tree.values()}
        self.nbytes: int = sum(x.nbytes for x in arrays.values())
        """Bytes of the model's weights in memory."""

    @classmethod
    def _load_again(cls, origin: Origin) -> Self:
        """The model of this origin. Raises what the function raises that loads such models."""
        raise NotImplementedError

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., LoadedModel], tuple[type[LoadedModel], Origin]]:
        _known.remember(self._origin, self)
        return _arrived, (type(self), self._origin)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({str(self.path)!r}, dimension={self.dimension}, dtype={self.dtype!r})"

    @property
    def sees(self) -> bool:
        """Whether the model sees pictures, whose vectors lie in the space of its texts."""
        return self.loaded.vision is not None and self.loaded.vision.sees

    def windows_of_images(
        self,
        pictures: Iterable[tuple[int, object]],
        plan: Plan,
        advance: Callable[[int], object] = int,
    ) -> Iterator[tuple[list[int], list[Seen]]]:
        """Positions of some pictures at a time, and what became of them.

        `plan` comes from `self.plan`. `advance` is called with the number of pictures that a pass finished. Errors
        name positions.
        """
        # Imported here: only v4 sees pictures.
        from mlx_jina.engine.pictures import picture_vectors, vision_of

        return picture_vectors(self.pipeline, vision_of(self.loaded), pictures, plan, advance)

    def rows_of_images(
        self,
        pictures: Iterable[tuple[int, object]],
        plan: Plan,
        advance: Callable[[int], object] = int,
    ) -> dict[int, Vectors]:
        """The rows of each picture by its position: one, or one for each of its tokens."""
        return {
            position: seen.vectors
            for positions, pictures_seen in self.windows_of_images(pictures, plan, advance)
            for position, seen in zip(positions, pictures_seen, strict=True)
        }

    def tokenize(self, texts: str | Texts) -> list[list[int]]:
        """Token ids of each text, special tokens included, before any truncation. Raises InputError."""
        return [ids.tolist() for ids in self._tokenizer.encode(listed(texts))]

    def tokens(self, texts: str | Texts, special_tokens: bool = True) -> list[list[Token]]:
        """Each text's tokens with their places in the text, in characters, for chunkers. Raises InputError."""
        check_options(special_tokens=special_tokens)
        return self._tokenizer.tokens(listed(texts), special_tokens)

    def count_tokens(self, texts: str | Texts) -> list[int]:
        """Tokens of each text, special tokens included; compare with `max_length`. Raises InputError."""
        return [len(ids) for ids in self.tokenize(texts)]

    def fingerprint(self, task: str | None = None) -> str:
        """Sixteen hex digits of a hash: vectors may be mixed in one index if their fingerprints are equal.

        The hash covers weights (as values, whatever the file format), tokenizer, pooling, prompts and
        normalisation. A model that keeps several tasks has a fingerprint for each. Raises InputError for an
        unknown task.
        """
        check_options(task=task)
        name, _ = self.loaded.prompts.choose_task(task)
        # Tasks that differ by a prompt alone share the weights, so their vectors share a space.
        name = name if name in self.loaded.models else None
        if name not in self._fingerprints:
            model = self.loaded.model_for(name)
            weights = self._thread.run(checkpoint.digest, model)
            parts = [weights, self._tokenizer.canonical(), model.pooling, self.prompts, "unit"]
            if (settings := self.loaded.files.config.get("colbert")) is not None:
                parts.append(settings)
            if (vision := self.loaded.vision) is not None and vision.sees:
                # Limits of pictures move their vectors in the space that texts share.
                parts.append(vision.preprocessor.facts)
            canonical = json.dumps(parts, sort_keys=True).encode()
            self._fingerprints[name] = hashlib.sha256(canonical).hexdigest()[:16]
        return self._fingerprints[name]


# Models that were pickled, or came that way.
_known: Known[LoadedModel] = Known()


def _arrived(kind: type[LoadedModel], origin: Origin) -> LoadedModel:
    """The model that was pickled as this origin."""
    return _known.get(kind, origin, kind._load_again)
