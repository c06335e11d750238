"""`mlx-jina search`, `related` and `duplicates`: hits for a terminal, and for programs."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.search import location
from mlx_jina.search.changes import Report
from mlx_jina.search.hits import Explanation, Found, Hit, check_uri
from mlx_jina.search.index import Index
from mlx_jina.search.query import Where

# Seconds that a search spends on what changed since the last one.
SYNC_SECONDS = 1.0

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def search(
    query: str,
    *,
    index: str | None,
    limit: int,
    model: str | None,
    mode: Any,
    globs: Sequence[str],
    tags: Sequence[str],
    since: str | None,
    until: str | None,
    chunks: bool,
    recent: bool,
    min_score: float | None,
    min_cosine: float | None,
    no_sync: bool,
    explain: bool,
    uri: str | None,
    output: str | None,
    nul: bool,
) -> None:
    """Bring the index up to date, search, and print."""
    started = time.monotonic()
    output = _checked(output, nul, uri)
    where = Where(glob=globs, tags=tags, since=since, until=until)
    with Index(location.choose(index), model, create=False, local_files_only=True) as opened:
        if mode != "words":
            opened.preload(query)
        report = Report() if no_sync else _synced(opened, mode != "words")
        found = opened.find(
            query,
            limit,
            mode,
            where,
            chunks=chunks,
            recent=recent,
            min_score=min_score,
            min_cosine=min_cosine,
        )
        if found.warning:
            _tell(found.warning)
    took = round(1000 * (time.monotonic() - started))
    if output == "json":
        stale = {"words": report.waiting, "vectors": found.waiting}
        head = {"query": query, "mode": found.mode, "model": found.model, "fingerprint": found.fingerprint}
        rows = [_as_json(hit, uri) for hit in found.hits]
        reasons = {"explanation": _explained_as_json(found.explanation)} if explain else {}
        _print(json.dumps({**head, "took_ms": took, "stale": stale, **reasons, "hits": rows}, ensure_ascii=False))
        return
    _print_hits(found.hits, output, nul, uri, found.explanation if explain else None)
    if not found.hits:
        _tell("nothing found" if found.explanation.chunks else "the index has no notes")
    if explain and output is None:
        _print("\n".join(_explained(found)))


def related(
    note: str, *, index: str | None, limit: int, linked: bool, uri: str | None, output: str | None, nul: bool
) -> None:
    """Print the neighbours of a note."""
    output = _checked(output, nul, uri)
    path, line = note, None
    if not os.path.exists(note) and (match := re.fullmatch(r"(.+):(\d+)", note)):
        path, line = match[1], int(match[2])
    with Index(location.choose(index), create=False) as opened:
        hits = opened.related(path, limit, line=line, linked=linked)
    if output == "json":
        rows = [_as_json(hit, uri) for hit in hits]
        _print(json.dumps({"note": path, "line": line, "hits": rows}, ensure_ascii=False))
    else:
        _print_hits(hits, output, nul, uri, None)


def duplicates(index: str | None, threshold: float, as_json: bool) -> None:
    """Print pairs of notes."""
    with Index(location.choose(index), create=False) as opened:
        pairs = opened.duplicates(threshold)
    if as_json:
        rows = [
            {"path": pair.path, "other": pair.other, "cosine": round(pair.cosine, 4), "identical": pair.identical}
            for pair in pairs
        ]
        _print(json.dumps({"threshold": threshold, "duplicates": rows}, ensure_ascii=False))
        return
    for pair in pairs:
        _print(f"{'identical' if pair.identical else f'{pair.cosine:.3f}':9}  {pair.path}  {pair.other}")
    if not pairs:
        _tell(f"no two notes are as alike as {threshold}")


def _synced(index: Index, vectors: bool) -> Report:
    """What changed, as far as a second suffices; what keeps the index from it is said, and the search goes on."""
    try:
        report = index.sync(seconds=SYNC_SECONDS, wait=False, vectors=vectors)
    except MlxJinaError as error:
        _tell(f"the index is searched as it is: {error}")
        return Report()
    for warning in report.warnings:
        _tell(warning)
    left = [f"{report.waiting:,} notes to be read"] if report.waiting else []
    left += [f"{report.without_vectors:,} notes without vectors"] if vectors and report.without_vectors else []
    if left:
        _tell(f"not all is up to date: {' and '.join(left)}; `mlx-jina index` does the rest")
    return report


def _checked(output: str | None, nul: bool, uri: str | None) -> str | None:
    if nul and output != "paths":
        raise InputError("-0 ends paths: use it with --paths")
    if uri is not None:
        check_uri(uri)
    return output


def _print_hits(
    hits: Sequence[Hit], output: str | None, nul: bool, uri: str | None, explanation: Explanation | None
) -> None:
    if output == "paths":
        end = "\0" if nul else "\n"
        for path in dict.fromkeys(hit.absolute_path for hit in hits):
            sys.stdout.buffer.write(os.fsencode(path) + end.encode())
        sys.stdout.buffer.flush()
    elif output == "jsonl":
        for hit in hits:
            _print(json.dumps(_as_json(hit, uri), ensure_ascii=False))
    else:
        for hit in hits:
            _print("\n".join(_lines(hit, uri, explanation)))


def _lines(hit: Hit, uri: str | None, explanation: Explanation | None) -> Iterator[str]:
    """A hit for a person."""
    terminal = sys.stdout.isatty()
    colours = terminal and not os.environ.get("NO_COLOR")
    place = _shown(f"{hit.path}:{hit.line}")
    if terminal:
        link = hit.uri_by(uri) if uri else hit.uri
        place = f"\x1b]8;;{_shown(link)}\x1b\\{place}\x1b]8;;\x1b\\"
    names = _shown(" > ".join(filter(None, (hit.title, hit.heading))))
    yield f"{place}  {hit.score:.2f}  {names}"
    more = f"  (+{hit.more} more)" if hit.more else ""
    snippet = hit.marked(_BOLD, _PLAIN) if colours else hit.snippet
    yield f"    {snippet}{more}"
    if explanation is not None:
        parts = []
        if hit.cosine is not None:
            parts.append(f"cosine {hit.cosine:.3f}")
        if hit.bm25 is not None:
            parts.append(f"bm25 {hit.bm25:.2f}")
        words = ", ".join(parts) or "neither half"
        yield f"    {_DIM}{words}{_PLAIN}" if colours else f"    {words}"


def _explained(found: Found) -> Iterator[str]:
    """How all scores came about."""
    why = found.explanation
    yield f"\nmode {found.mode}, {why.chunks:,} chunks" + (
        "" if why.allowed is None else f", filters let {why.allowed:,} notes through"
    )
    if why.mean is not None and why.best is not None:
        yield f"meaning: weight {why.weight}, cosines from a mean of {why.mean:.3f} to {why.best:.3f}"
    if why.best_bm25 is not None:
        yield f"words: best bm25 {why.best_bm25:.2f}"
    for term, count in why.counts.items():
        word = term.strip('"').replace('""', '"')
        yield f"  {word}: " + (
            "in more than half of all chunks, left out" if term in why.dropped else f"in {count:,} chunks"
        )


def _explained_as_json(why: Explanation) -> dict[str, Any]:
    return {
        "chunks": why.chunks,
        "allowed_notes": why.allowed,
        "mean_cosine": why.mean,
        "best_cosine": why.best,
        "best_bm25": why.best_bm25,
        "weight": why.weight,
        "words": {term.strip('"').replace('""', '"'): count for term, count in why.counts.items()},
        "dropped": [term.strip('"').replace('""', '"') for term in why.dropped],
    }


def _as_json(hit: Hit, uri: str | None) -> dict[str, Any]:
    return {
        "path": hit.path,
        "absolute_path": hit.absolute_path.encode("utf-8", "backslashreplace").decode(),
        "line": hit.line,
        "end_line": hit.end_line,
        "start": hit.span[0],
        "stop": hit.span[1],
        "title": hit.title,
        "heading": hit.heading,
        "tags": list(hit.tags),
        "modified": datetime.datetime.fromtimestamp(hit.modified, datetime.timezone.utc).isoformat("T", "seconds"),
        "score": round(hit.score, 4),
        "cosine": None if hit.cosine is None else round(hit.cosine, 4),
        "bm25": None if hit.bm25 is None else round(hit.bm25, 4),
        "snippet": hit.snippet,
        "highlights": [list(span) for span in hit.highlights],
        "more": hit.more,
        "uri": hit.uri_by(uri) if uri else hit.uri,
    }


def _shown(text: str) -> str:
    """A name of a file or a title may hold anything, also what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _print(line: str) -> None:
    print(line)


def _tell(words: str) -> None:
    """A line for the person at the terminal; data alone goes to standard output."""
    print(words, file=sys.stderr, flush=True)
