"""What a student is worth: similarity of sentences, search, and nearness to its teacher by length of text."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8000)


def ranks(values: Array) -> Array:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Array = ends - (counts - 1) / 2
    return mean[inverse]


def spearman(a: Array, b: Array) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def unit(x: Array) -> Array:
    out: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return out


def sts(path: Path, encode: Callable[[list[str]], Array], dims: list[int]) -> dict[int, float]:
    """Spearman of cosine against the gold score at every width in `dims`.

    The file has rows of sentence, sentence, score.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    gold = np.array([float(r[2]) for r in rows])
    a, b = encode([r[0] for r in rows]), encode([r[1] for r in rows])
    return {d: spearman((unit(a[:, :d]) * unit(b[:, :d])).sum(1), gold) for d in dims}


def retrieval(folder: Path, encode: Callable[[list[str]], Array], dims: list[int]) -> dict[int, float]:
    """nDCG@10 of exact search by cosine at every width, on a collection in BEIR's layout.

    A document is "title. text".
    """
    from bench import search

    collection = search.read(folder)
    documents = _documents(collection.documents)
    names = [d["_id"] for d in collection.documents]
    asked = [query for query, gains in collection.relevant.items() if max(gains.values()) > 0]
    passages, queries = encode(documents), encode([collection.queries[query] for query in asked])
    scores = {}
    for dim in dims:
        found = np.argsort(-(unit(queries[:, :dim]) @ unit(passages[:, :dim]).T), kind="stable")[:, : search.DEPTH]
        ranked = {query: [names[i] for i in row] for query, row in zip(asked, found, strict=True)}
        scores[dim] = search.mean_ndcg(ranked, collection.relevant)
    return scores


def by_length(
    folder: Path,
    tokenizer: Any,
    encode: Callable[[list[str]], Array],
    teach: Callable[[list[str]], Array],
) -> dict[int, dict[str, float]]:
    """By number of tokens: the mean cosine to the teacher, and how many texts are nearest to their own vector.

    The texts are a collection's documents, joined and cut, at most 16 of a length. Both encoders have one space.
    """
    from bench import search

    whole = " ".join(_documents(search.read(folder).documents))
    places = tokenizer.encode(whole, add_special_tokens=False).offsets
    found = {}
    for length in LENGTHS:
        starts = range(0, len(places) - length + 1, LENGTHS[-1])[:16]
        texts = [whole[places[at][0] : places[at + length - 1][1]] for at in starts]
        if texts:
            # One by one: a batch of long ones would take tens of gigabytes.
            own = np.concatenate([encode([text]) for text in texts])
            cosines = unit(own) @ unit(teach(texts)).T
            nearest = int((cosines.argmax(1) == np.arange(len(texts))).sum())
            mean = round(float(np.diag(cosines).mean()), 3)
            found[length] = {"cosine": mean, "nearest": nearest, "texts": len(texts)}
    return found


def _documents(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [". ".join(filter(None, (row.get("title"), row["text"]))) for row in rows]
