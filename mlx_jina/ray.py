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

from typing import Any

import numpy as np

# The names of `load`'s options; all others are `encode`'s.
_LOADING = ("revision", "local_files_only", "dtype", "cache_dir")


class Encoder:
    """A callable for `map_batches` with a model of its own: adds `output` (N, D) to a batch of texts in `column`.

    `task` and the options of `mlx_jina.load` and `Encoder.encode` are passed on.
    """

    def __init__(
        self,
        model: str,
        *,
        task: str | None = None,
        column: str = "text",
        output: str = "embedding",
        **options: Any,
    ) -> None:
        from mlx_jina import load

        loading = {name: options.pop(name) for name in _LOADING if name in options}
        self._encoder = load(model, task=task, **loading)
        self._options = {"show_progress_bar": False, **options}
        self._column, self._output = column, output
        # A wrong option is an error here, before any batch.
        self._encoder.encode([], **self._options)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Ray's batch, a column for each key, with one more."""
        vectors = self._encoder.encode(batch[self._column].tolist(), **self._options)
        return {**batch, self._output: vectors}
