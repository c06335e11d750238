"""Encode a Ray Data dataset with any number of workers on any number of machines (`pip install 'mlx-jina[ray]'`).

    ds = ray.data.read_parquet("passages/")
    ds = ds.map_batches(
        mlx_jina.ray.Encoder,
        fn_constructor_kwargs={"model": "v5-small", "task": "retrieval", "column": "text"},
        compute=ray.data.ActorPoolStrategy(size=4),
        batch_size=4096,
    )
    ds.write_parquet("vectors/")

Ray restarts a worker that dies and gives its batch to another one. The rows keep their order if
`ray.data.DataContext.get_current().execution_options.preserve_order = True`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlx_jina.errors import InputError, some
from mlx_jina.options import EncodeOptions, LoadOptions
from mlx_jina.text.tokenizer import many

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RayOptions(LoadOptions, EncodeOptions, total=False):
    """Options of `mlx_jina.load` and of `Encoder.encode`; `task` goes to `load`, which fuses the adapter."""


class Encoder:
    """A callable for `map_batches` that adds the column `output`, vectors (N, D), for the texts in `column`.

    Takes the options of `mlx_jina.load` and `Encoder.encode`, and raises their errors. Ray starts each worker as a
    process with a model of its own; `limit_cache` bounds its memory.
    """

    def __init__(
        self, model: str, *, column: str = "text", output: str = "embedding", **options: Unpack[RayOptions]
    ) -> None:
        from mlx_jina import limit_cache, load

        limit_cache()
        task = options.pop("task", None)
        given = cast("dict[str, Any]", options)
        loading = {name: given.pop(name) for name in LoadOptions.__optional_keys__ & given.keys()}
        self._encoder = load(model, task=task, **loading)
        self._options = cast(EncodeOptions, given)
        self._column, self._output = column, output
        # Without texts, to find a wrong option before the first batch.
        self._encoder.encode([], **self._options)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Ray's batch, columns by name, with the vectors as one more column. Raises InputError for another one."""
        if not isinstance(batch, dict) or self._column not in batch:
            has = some(batch) if isinstance(batch, dict) else type(batch).__name__
            raise InputError(
                f"the batch has no column {self._column!r} (it has: {has or 'none'}); column= names it"
            )
        texts = list(many(np.asarray(batch[self._column]).tolist()))
        vectors = self._encoder.encode(texts, show_progress_bar=False, **self._options)
        return {**batch, self._output: vectors}
