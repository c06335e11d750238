"""Plugin of the `llm` command: `llm embed -m mlx-jina/pocket -c "some text"`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import click
import llm

from mlx_jina import MlxJinaError, TruncationWarning, catalog
from mlx_jina.integrations import open_encoder


class MLXJinaEmbeddingModel(llm.EmbeddingModel):
    """Embeds documents, or queries under the name `...-query`, since llm does not tell the two sides apart."""

    batch_size = 1000

    def __init__(self, name: str, query: bool) -> None:
        self.model_id = f"mlx-jina/{name}-query" if query else f"mlx-jina/{name}"
        self._name, self._query = name, query

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """One vector for each text."""
        try:
            encoder = open_encoder(self._name)
            encode = encoder.encode_query if self._query else encoder.encode_document
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", TruncationWarning)
                vectors = encode(cast("list[str]", list(items)))
        except MlxJinaError as error:
            raise click.ClickException(str(error)) from None
        for warning in caught:
            if isinstance(warning.message, TruncationWarning):
                count, limit = warning.message.count, warning.message.max_length
                click.echo(f"Warning: {count} of the texts had more than {limit} tokens, and were cut.", err=True)
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        yield from vectors.tolist()


@llm.hookimpl  # type: ignore[untyped-decorator]
def register_embedding_models(register: Callable[[llm.EmbeddingModel], None]) -> None:
    """Register every known model, and a second name for the queries of those with prompts."""
    for name in catalog.short_names():
        entry = catalog.find(name)
        for query in (False, True) if entry and entry.prompts else (False,):
            register(MLXJinaEmbeddingModel(name, query))
