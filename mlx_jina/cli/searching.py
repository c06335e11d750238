"""`mlx-jina search`, `related` and `duplicates`: hits for a terminal, and for programs."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_jina.cli import live
from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.search import answers, location
from mlx_jina.search.answers import Answer
from mlx_jina.search.hits import check_uri, marked, some_of

if TYPE_CHECKING:
    # Not needed where a server answers.
    from mlx_jina.reranker import Reranker
    from mlx_jina.search.changes import Report
    from mlx_jina.search.index import Index
    from mlx_jina.search.language_model import LanguageModel

# Seconds that a search spends on what changed since the last one.
SYNC_SECONDS = 1.0

# What a hit has of each half, and its digits.
_HALVES = (("cosine", 3), ("bm25", 2), ("rerank", 3))

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def search(
    query: str,
    *,
    index: str | None,
    limit: int,
    model: str | None,
    mode: Any,
    glob: Sequence[str],
    tags: Sequence[str],
    since: str | None,
    until: str | None,
    chunks: bool,
    recent: bool,
    min_score: float | None,
    min_cosine: float | None,
    expand: str | None,
    rerank: str | None,
    no_sync: bool,
    explain: bool,
    uri: str | None,
    output: str | None,
    nul: bool,
) -> None:
    """Bring the index up to date, search, and print."""
    started = time.monotonic()
    output = _checked(output, nul, uri)
    file = location.choose(index)
    request = {
        "query": query,
        "limit": limit,
        "mode": mode,
        "where": {"glob": glob, "tags": tags, "since": since, "until": until},
        "chunks": chunks,
        "recent": recent,
        "min_score": min_score,
        "min_cosine": min_cosine,
        "rerank": rerank,
        "expand": expand,
        "sync": not no_sync,
        "explain": explain,
        "uri": uri or os.environ.get("MLX_JINA_URI"),
    }
    moved = _moved(file, index)
    # A server does not know what its folder was called here.
    if model is None and moved is None and (answer := live.ask(file, "/v1/search", request)) is not None:
        _print_answer({**answer, "took_ms": round(1000 * (time.monotonic() - started))}, output, nul)
        return
    from mlx_jina.search.changes import Report
    from mlx_jina.search.index import Index
    from mlx_jina.search.query import Where

    where = Where(glob=glob, tags=tags, since=since, until=until)
    reranker = _reranker(rerank) if rerank is not None else None
    expander = _expander(expand) if expand is not None else None
    with Index(file, model, create=False, local_files_only=True) as opened:
        if mode != "words":
            opened.preload(query)
        report, fault = (Report(), "") if no_sync else _synced(opened, moved, mode != "words")
        found = opened.find(
            query,
            limit,
            mode,
            where,
            chunks=chunks,
            recent=recent,
            min_score=min_score,
            min_cosine=min_cosine,
            rerank=reranker,
            expand=expander,
        )
    took = time.monotonic() - started
    # What is wrong with the model keeps the index from new vectors, and the search from meaning.
    if fault and fault not in (found.warning or ""):
        _tell(f"the index is searched as it is: {fault}")
    _print_answer(
        answers.of_search(query, found, uri, took=took, unread=report.waiting, explain=explain), output, nul
    )


def _reranker(name: str) -> Reranker:
    from mlx_jina import load_reranker, process

    # Before anything imports MLX.
    process.tune()
    return load_reranker(name)


def _expander(name: str) -> LanguageModel:
    from mlx_jina import process

    process.tune()
    from mlx_jina.search.language_model import LanguageModel

    return LanguageModel(name)


def _print_answer(answer: Answer, output: str | None, nul: bool) -> None:
    # That an index without notes has no vectors says nothing.
    if answer["warning"] and answer["chunks"]:
        _tell(answer["warning"])
    if output == "json":
        _print(_json({**answer, "hits": [answers.written(hit) for hit in answer["hits"]]}))
        return
    if output == "alfred":
        _print(_json(answers.for_alfred(answer["query"], list(map(answers.written, answer["hits"])))))
        return
    _print_hits(answer["hits"], output, nul, explain="explanation" in answer)
    if not answer["hits"]:
        _tell("nothing found" if answer["chunks"] else "the index has no notes")
    if "explanation" in answer and output is None:
        _print("\n".join(_explained(answer)))


def related(
    note: str, *, index: str | None, limit: int, linked: bool, uri: str | None, output: str | None, nul: bool
) -> None:
    """Print the neighbours of a note."""
    output = _checked(output, nul, uri)
    path, line = note, None
    if not os.path.exists(note) and (match := re.fullmatch(r"(.+):(\d+)", note)):
        path, line = match[1], int(match[2])
    from mlx_jina.search.index import Index

    with Index(location.choose(index), create=False) as opened:
        hits = [answers.of_hit(hit, uri) for hit in opened.related(path, limit, line=line, linked=linked)]
    if output == "json":
        _print(_json({"note": path, "line": line, "hits": list(map(answers.written, hits))}))
    else:
        _print_hits(hits, output, nul)


def duplicates(index: str | None, threshold: float, as_json: bool) -> None:
    """Print pairs of notes."""
    from mlx_jina.search.index import Index

    with Index(location.choose(index), create=False) as opened:
        pairs = opened.duplicates(threshold)
    if as_json:
        _print(_json(answers.of_duplicates(threshold, pairs)))
        return
    for pair in pairs:
        _print(f"{'identical' if pair.identical else f'{pair.cosine:.3f}':9}  {pair.path}  {pair.other}")
    if not pairs:
        _tell(f"no two notes are as alike as {threshold}")


def _moved(file: Path, named: str | None) -> str | None:
    """The folder that an index was `named` by, where that has moved since; it may be anywhere."""
    if named is None or not os.path.isdir(path := os.path.realpath(os.path.expanduser(named))):
        return None
    known = location.folders_of(file)
    return path if all(folder.path != path for folder in known) else None


def _synced(index: Index, moved: str | None, vectors: bool) -> tuple[Report, str]:
    """What changed, as far as a second suffices, and what kept the index from it, which stops no search."""
    from mlx_jina.search.changes import Report

    try:
        report = index.sync(moved, seconds=SYNC_SECONDS, wait=False, vectors=vectors)
    except MlxJinaError as error:
        return Report(), str(error)
    for warning in report.warnings:
        _tell(warning)
    left = [f"{report.waiting:,} notes to be read"] if report.waiting else []
    left += [f"{report.without_vectors:,} notes without vectors"] if vectors and report.without_vectors else []
    if left:
        _tell(f"not all is up to date: {' and '.join(left)}; `mlx-jina index` does the rest")
    return report, ""


def _checked(output: str | None, nul: bool, uri: str | None) -> str | None:
    if nul and output != "paths":
        raise InputError("-0 ends paths: use it with --paths")
    if uri is not None:
        check_uri(uri)
    return output


def _print_hits(hits: Sequence[Answer], output: str | None, nul: bool, *, explain: bool = False) -> None:
    if output == "paths":
        end = "\0" if nul else "\n"
        for path in dict.fromkeys(hit["absolute_path"] for hit in hits):
            sys.stdout.buffer.write(os.fsencode(path) + end.encode())
        sys.stdout.buffer.flush()
    elif output == "jsonl":
        for hit in hits:
            _print(_json(answers.written(hit)))
    else:
        for hit in hits:
            _print("\n".join(_lines(hit, explain)))


def _lines(hit: Answer, explain: bool) -> Iterator[str]:
    """A hit for a person."""
    terminal = sys.stdout.isatty()
    colours = terminal and not os.environ.get("NO_COLOR")
    place = _shown(hit["path"] if hit.get("picture") and hit["line"] == 1 else f"{hit['path']}:{hit['line']}")
    if terminal:
        place = f"\x1b]8;;{_shown(hit['uri'])}\x1b\\{place}\x1b]8;;\x1b\\"
    names = _shown(" > ".join(filter(None, (hit["title"], hit["heading"]))))
    yield f"{place}  {hit['score']:.2f}  {names}"
    more = f"  (+{hit['more']} more)" if hit["more"] else ""
    snippet = marked(hit["snippet"], hit["highlights"], _BOLD, _PLAIN) if colours else hit["snippet"]
    # A server of an older version has none.
    if hit.get("picture"):
        notes = _shown(some_of(hit["shown_in"]))
        snippet = " ".join(filter(None, (f"(picture in {notes})" if notes else "(picture)", snippet)))
    yield f"    {snippet}{more}"
    if explain:
        names = ", ".join(f"{name} {hit[name]:.{digits}f}" for name, digits in _HALVES if hit[name] is not None)
        words = names or "neither half"
        yield f"    {_DIM}{words}{_PLAIN}" if colours else f"    {words}"


def _explained(answer: Answer) -> Iterator[str]:
    """How all scores came about."""
    why = answer["explanation"]
    yield f"\nmode {answer['mode']}, {why['chunks']:,} chunks" + (
        "" if why["allowed_notes"] is None else f", filters let {why['allowed_notes']:,} notes through"
    )
    if why["mean_cosine"] is not None:
        mean, best = why["mean_cosine"], why["best_cosine"]
        yield f"meaning: weight {why['weight']}, cosines from a mean of {mean:.3f} to {best:.3f}"
    if why["best_bm25"] is not None:
        yield f"words: best bm25 {why['best_bm25']:.2f}"
    if why["words_match_strongly"]:
        yield "words match strongly: nothing else was searched for"
    if why["expansion"] is not None:
        rewordings, supposed = why["expansion"]["rewordings"], why["expansion"]["answer"]
        yield from (f"also searched for: {_shown(text)}" for text in rewordings)
        yield f"and for an answer such as: {_shown(supposed)}" if supposed else "and for no answer"
    for word, count in why["words"].items():
        left_out = word in why["dropped"]
        yield f"  {word}: " + ("in more than half of all chunks, left out" if left_out else f"in {count:,} chunks")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(text: str) -> str:
    """A name of a file or a title may hold anything, also what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _print(line: str) -> None:
    print(line)


def _tell(words: str) -> None:
    """A line for the person at the terminal; data alone goes to standard output."""
    print(words, file=sys.stderr, flush=True)
