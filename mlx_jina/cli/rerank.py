"""`mlx-jina rerank`: documents in the order in which they answer a query, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mlx_jina import process
from mlx_jina.cli.encode import tell
from mlx_jina.cpu import blas
from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.files import inputs

if TYPE_CHECKING:
    from mlx_jina.options import PlaceOptions, RerankOptions


def run(
    model: str,
    query: str,
    documents: Sequence[str],
    paths: Sequence[str],
    field: str | None,
    top_n: int | None,
    loading: PlaceOptions,
    options: RerankOptions,
) -> None:
    """Print a line for each document, best first: its index, its score, and what it is."""
    process.tune()
    if not documents and not paths:
        raise InputError("there is nothing to rank: name documents, or files of them by --input")
    if list(paths).count(inputs.STDIN) > 1:
        raise InputError("standard input (-) can be read only once")
    inputs.check(paths, field, pictures=False)
    records = list(chain(inputs.from_arguments(documents), inputs.from_paths(paths, field)))
    # Imported here: reading a file with a mistake in it takes no MLX.
    from mlx_jina import load_reranker

    if slow := blas.slow():
        tell(slow)
    reranker = load_reranker(model, **loading)
    try:
        scores = reranker.score(query, [record.text for record in records], **options)
    except MlxJinaError as error:
        if error.position is None or not (origin := records[error.position].origin):
            raise
        raise type(error)(f"{origin}: {error.words}") from None
    for index in np.argsort(-scores, kind="stable")[:top_n].tolist():
        record = records[index]
        label = dict([record.label]) if record.label else {}
        line = {"index": index, **label, "score": float(scores[index]), "text": record.text}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
