"""How well does the notes index find? nDCG@10 on a test collection, by words, by meaning, and by both.

    python -m bench.search DIR... [--model pocket] [--join] [--tokens 128 --tokens 256] [--without headings]

DIR holds a collection in BEIR's layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels.tsv
(query-id, corpus-id, score). Each document becomes a Markdown file, "# title" and the text below it, and the
files an index as `mlx-jina index` makes it; every query is a search in it. nDCG is trec_eval's: gains as judged,
discounts log2(rank + 1), the mean over queries that have an answer.

`--join` makes one long note of all documents with one title, a paragraph of each, and asks for passages: a hit
is a chunk, and stands for the documents that it shares at least half of itself or of them with. Prints a Markdown
table: words, meaning, reciprocal rank fusion of these two lists (k = 60, 100 hits of each), and the score sum
that searches use; the last column says how far the sum is above the better half.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import mlx_jina
from mlx_jina.search import chunks
from mlx_jina.search.expansion import Expander
from mlx_jina.search.hits import MODES, Hit
from mlx_jina.search.model import Model
from mlx_jina.search.ranking import Scorer

DEPTH = 10
# Reciprocal rank fusion's constant, and how much of each list it sees.
RRF_K, RRF_DEPTH = 60, 100
Relevant = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and which of the first answer each of the second, how well."""

    documents: Sequence[Mapping[str, str]]
    queries: Mapping[str, str]
    relevant: Relevant


@dataclass(frozen=True)
class Place:
    """Where a document ended up: a file, and its characters in it."""

    path: str
    start: int
    stop: int


def read(folder: Path) -> Collection:
    """A collection in BEIR's layout."""
    queries = {row["_id"]: row["text"] for row in _lines(folder / "queries.jsonl")}
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    with open(folder / "qrels.tsv", encoding="utf-8", newline="") as file:
        for query, document, gain in list(csv.reader(file, delimiter="\t"))[1:]:
            relevant[query][document] = int(gain)
    return Collection(list(_lines(folder / "corpus.jsonl")), queries, relevant)


def write(documents: Sequence[Mapping[str, str]], folder: Path, join: bool) -> dict[str, Place]:
    """Documents as notes. Names of files say nothing, as ids would."""
    grouped: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for number, document in enumerate(documents):
        grouped[document.get("title", "") if join else str(number)].append(document)
    places = {}
    for number, group in enumerate(grouped.values()):
        path = f"{number:06}.md"
        text = f"# {title}\n\n" if (title := group[0].get("title", "").replace("_", " ").strip()) else ""
        for document in group:
            places[document["_id"]] = Place(path, len(text), len(text) + len(document["text"]))
            text += document["text"] + "\n\n"
        (folder / path).write_text(text, encoding="utf-8")
    return places


def ndcg(ranking: Sequence[str], gains: Mapping[str, int]) -> float:
    """Of one query."""
    ideal = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:DEPTH]
    found = [max(0, gains.get(document, 0)) for document in ranking[:DEPTH]]
    return _discounted(found) / _discounted(ideal) if ideal else 0.0


def rankings(
    index: mlx_jina.Index,
    collection: Collection,
    places: Mapping[str, Place],
    mode: Any,
    join: bool,
    depth: int,
    rerank: Scorer | None = None,
    expand: Expander | None = None,
) -> dict[str, list[str]]:
    """For every query that has an answer the documents that were found, best first."""
    by_path: dict[str, list[tuple[str, Place]]] = defaultdict(list)
    for document, place in places.items():
        by_path[place.path].append((document, place))
    found = {}
    for query, gains in collection.relevant.items():
        if max(gains.values()) > 0:
            hits = index.search(collection.queries[query], depth, mode, chunks=join, rerank=rerank, expand=expand)
            documents = (document for hit in hits for document in _documents(hit, by_path[hit.path], join))
            found[query] = list(dict.fromkeys(documents))
    return found


def mean_ndcg(found: Mapping[str, Sequence[str]], relevant: Relevant) -> float:
    """Of all queries."""
    return sum(ndcg(ranking, relevant[query]) for query, ranking in found.items()) / len(found)


def fused_by_rank(lists: Sequence[Sequence[str]]) -> list[str]:
    """Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""
    scores: dict[str, float] = defaultdict(float)
    for ranking in lists:
        for rank, document in enumerate(ranking, 1):
            scores[document] += 1 / (RRF_K + rank)
    return sorted(scores, key=lambda document: -scores[document])


def evaluate(
    index: mlx_jina.Index, collection: Collection, places: Mapping[str, Place], join: bool
) -> dict[str, float]:
    """The mean nDCG@10 of every way to search."""
    scores: dict[str, float] = {}
    for mode in MODES:
        found = rankings(index, collection, places, mode, join, DEPTH)
        scores[mode] = mean_ndcg(found, collection.relevant)
    words, meaning = (rankings(index, collection, places, mode, join, RRF_DEPTH) for mode in ("words", "meaning"))
    fused = {query: fused_by_rank([words[query], meaning[query]]) for query in words}
    return {**scores, "rrf": mean_ndcg(fused, collection.relevant)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="pocket", show_default=True, metavar="NAME")
@click.option(
    "--join", is_flag=True, help="Documents of one title are one note, and passages of it are asked for."
)
@click.option("--tokens", multiple=True, type=int, default=(chunks.TOKENS,), show_default=True, help="Of a chunk.")
@click.option("--weight", multiple=True, type=float, help="Of the meaning half. [default: the model's]")
@click.option(
    "--without",
    type=click.Choice(("title", "headings")),
    help="Leave these out in front of an embedded chunk: all of the line, or what stands after the title.",
)
def main(
    folders: Sequence[Path],
    model: str,
    join: bool,
    tokens: Sequence[int],
    weight: Sequence[float],
    without: str | None,
) -> None:
    """Command line."""
    loaded = mlx_jina.load(model)
    if without is not None:
        chunks.embedded = _embedded_without(without)
    print("| collection | chunk | chunks | weight | words | meaning | RRF | sum | above the better half |")
    print("|---|---|---|---|---|---|---|---|---|")
    for folder in folders:
        collection = read(folder)
        for size in tokens:
            chunks.TOKENS = size
            with indexed(collection, loaded, join) as (index, places):
                for value in weight or (Model(loaded).weight,):
                    index.set_weight(value)
                    scores = evaluate(index, collection, places, join)
                    gain = scores["hybrid"] - max(scores["words"], scores["meaning"])
                    row = [folder.name, size, index.status().chunks, value]
                    row += [f"{scores[mode]:.4f}" for mode in ("words", "meaning", "rrf", "hybrid")]
                    print("|", " | ".join(map(str, [*row, f"{gain:+.4f}"])), "|", flush=True)


@contextmanager
def indexed(
    collection: Collection, model: mlx_jina.Encoder, join: bool
) -> Iterator[tuple[mlx_jina.Index, dict[str, Place]]]:
    """An index of a collection's documents, which are files meanwhile, and where each document is."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "notes")
        files.mkdir()
        places = write(collection.documents, files, join)
        with mlx_jina.Index(Path(folder, "index.db"), model) as index:
            index.sync(files)
            yield index, places


def _embedded_without(part: str) -> Any:
    embedded = chunks.embedded

    def changed(title: str, heading: str, lead: str, body: str) -> str:
        whole = embedded(title, heading, lead, body)
        first, _, rest = whole.partition("\n")
        return rest or first if part == "title" else f"{title}\n{rest}"

    return changed


def _documents(hit: Hit, places: Sequence[tuple[str, Place]], join: bool) -> Iterator[str]:
    """The documents that a hit stands for."""
    start, stop = hit.span
    for document, place in places:
        shared = min(stop, place.stop) - max(start, place.start)
        if not join or 2 * shared >= min(stop - start, place.stop - place.start):
            yield document


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


if __name__ == "__main__":
    main()
