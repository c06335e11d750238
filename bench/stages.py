"""What do a reranker and other words for a question do to the notes index? nDCG@10, and seconds, on a collection.

    python -m bench.stages DIR... [--queries 30] [--rerank MODEL] [--expand MODEL] [--layers 2] [--only PART ...]

DIR is as in `bench.search`. Models that are named have rows of their own. The next rows are of rerankers with
random weights: what a second stage costs, and how much of a ranking survives one that knows nothing. The others
are scripted from the judgements, and bound what `mlx_jina.search.ranking.blend` and `expansion.combine` can gain
and lose:

- "judgements": a reranker that says 1 of every relevant document and 0 of the others; "opposite": the reverse.
- "own title": a generator that rewords the question as the title of its most relevant document.
- "other title": as that of a document that answers nothing; "noise": two such titles, and such a document's
  text as the supposed answer, which is all that a language model is asked for.

Prints a Markdown table. Seconds are of one search, by the clock and of all threads' computing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

import mlx_jina
from bench import models
from bench.search import DEPTH, Collection, Place, indexed, mean_ndcg, rankings, read
from mlx_jina.search.expansion import Expander, Expansion
from mlx_jina.search.language_model import LanguageModel
from mlx_jina.search.query import parse
from mlx_jina.search.ranking import Scorer

# Of a note's end, by which a passage is known to be of a document.
_END = 60


class Judge:
    """A reranker that knows the judgements."""

    def __init__(self, collection: Collection, *, right: bool = True) -> None:
        texts = {document["_id"]: document["text"] for document in collection.documents}
        self._right = right
        self._answers: dict[str, list[str]] = {}
        for query, gains in collection.relevant.items():
            answers = self._answers.setdefault(asked(collection, query), [])
            answers += [texts[document] for document, gain in gains.items() if gain > 0 and document in texts]

    def score(self, query: str, documents: list[str], /) -> list[float]:
        """1 or 0 for each passage."""
        answers = self._answers[query]
        ends = (document.rstrip()[-_END:].rpartition("\n")[2] for document in documents)
        return [float(any(end in answer for answer in answers) == self._right) for end in ends]


@dataclass(frozen=True)
class Script:
    """A generator that says of each question what was written for it."""

    lines: Mapping[str, Expansion]

    def expand(self, query: str, /) -> Expansion:
        """What was written."""
        return self.lines[query]


class Counting:
    """A generator, and how often it was asked."""

    def __init__(self, generator: Expander) -> None:
        self._generator = generator
        self.asked = 0

    def expand(self, query: str, /) -> Expansion:
        """What the generator says."""
        self.asked += 1
        return self._generator.expand(query)


def asked(collection: Collection, query: str) -> str:
    """A query's text as a search hands it on."""
    return parse(collection.queries[query]).text.strip()


def own_title(collection: Collection) -> Script:
    """The title of the most relevant document."""
    titles = {document["_id"]: document.get("title", "").replace("_", " ") for document in collection.documents}
    return Script(
        {
            asked(collection, query): Expansion((titles[max(gains, key=lambda each: gains[each])],))
            for query, gains in collection.relevant.items()
        }
    )


def noise(collection: Collection, titles: int, answer: bool) -> Script:
    """Titles, and a text, of documents that answer nothing, the same in every run."""
    rng = random.Random(0)
    lines = {}
    for query, gains in collection.relevant.items():
        others = [each for each in collection.documents if gains.get(each["_id"], 0) <= 0]
        *named, last = rng.sample(others, titles + 1)
        rewordings = tuple(each.get("title", "").replace("_", " ") for each in named)
        lines[asked(collection, query)] = Expansion(rewordings, last["text"] if answer else "")
    return Script(lines)


@dataclass(frozen=True)
class Stage:
    """What joins a search, made for a collection when its turn comes."""

    name: str
    rerank: Callable[[Collection], Scorer] | None = None
    expand: Callable[[Collection], Expander] | None = None


def stages(layers: int, rerank: Sequence[str], expand: Sequence[str]) -> list[Stage]:
    """All rows of the table."""
    return [
        Stage("none"),
        *(Stage(name, partial(_loaded, partial(str, name))) for name in rerank),
        *(Stage(name, expand=partial(_writing, name)) for name in expand),
        Stage("jina-reranker-v1-tiny-en's shape, random", partial(_loaded, models.reranker_v1)),
        Stage(
            f"Qwen3-Reranker-0.6B's shape, {layers} of 28 layers, random",
            partial(_loaded, partial(models.reranker, layers)),
        ),
        Stage("reranker: judgements", Judge),
        Stage("reranker: opposite", partial(Judge, right=False)),
        Stage("expansion: own title", expand=own_title),
        Stage("expansion: other title", expand=partial(noise, titles=1, answer=False)),
        Stage("expansion: noise", expand=partial(noise, titles=2, answer=True)),
    ]


def _loaded(find: Callable[[], str | Path], collection: Collection) -> Scorer:
    return mlx_jina.load_reranker(find())


def _writing(name: str, collection: Collection) -> Expander:
    return LanguageModel(name)


@dataclass(frozen=True)
class Measured:
    """Of all queries."""

    ndcg: float
    seconds: float
    computing: float
    asked: int
    """Questions that the generator was asked about."""


def measure(index: mlx_jina.Index, collection: Collection, places: dict[str, Place], stage: Stage) -> Measured:
    """One row."""
    rerank = None if stage.rerank is None else stage.rerank(collection)
    expand = None if stage.expand is None else Counting(stage.expand(collection))
    start, computing = time.perf_counter(), time.process_time()
    found = rankings(index, collection, places, "hybrid", False, DEPTH, rerank=rerank, expand=expand)
    seconds, computing = time.perf_counter() - start, time.process_time() - computing
    return Measured(
        mean_ndcg(found, collection.relevant),
        seconds / len(found),
        computing / len(found),
        0 if expand is None else expand.asked,
    )


def some(collection: Collection, queries: int) -> Collection:
    """With so many of the queries that have an answer, drawn as in every run."""
    answered = sorted(query for query, gains in collection.relevant.items() if max(gains.values()) > 0)
    chosen = random.Random(0).sample(answered, min(queries, len(answered)))
    return replace(collection, relevant={query: collection.relevant[query] for query in chosen})


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="pocket", show_default=True, metavar="NAME")
@click.option("--queries", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--rerank", multiple=True, metavar="MODEL", help="A reranker to measure.")
@click.option("--expand", multiple=True, metavar="MODEL", help="A language model to measure, as mlx-lm has it.")
@click.option("--layers", default=2, show_default=True, type=click.IntRange(min=1), help="Of Qwen3-Reranker.")
@click.option("--only", multiple=True, metavar="PART", help="Only rows with PART in their names, and the first.")
def main(
    folders: Sequence[Path],
    model: str,
    queries: int,
    rerank: Sequence[str],
    expand: Sequence[str],
    layers: int,
    only: Sequence[str],
) -> None:
    """Command line."""
    loaded = mlx_jina.load(model)
    chosen = [
        stage
        for stage in stages(layers, rerank, expand)
        if stage.name in ("none", *rerank, *expand) or not only or any(part in stage.name for part in only)
    ]
    print("| collection | queries | second stage | nDCG@10 | above none | seconds | computing | questions asked |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        collection = some(read(folder), queries)
        with indexed(collection, loaded, False) as (index, places):
            plain: float | None = None
            for stage in chosen:
                row = measure(index, collection, places, stage)
                plain = row.ndcg if plain is None else plain
                cells = [folder.name, len(collection.relevant), stage.name, f"{row.ndcg:.4f}"]
                cells += [f"{row.ndcg - plain:+.4f}", f"{row.seconds:.3f}", f"{row.computing:.3f}"]
                print("|", " | ".join(map(str, [*cells, row.asked or ""])), "|", flush=True)


if __name__ == "__main__":
    main()
