"""One search, from what was typed to hits, in one state of the index."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from mlx_jina.errors import MlxJinaError
from mlx_jina.search import expansion, filters, ranking, schema, words
from mlx_jina.search.database import LATEST, damaged, from_json, one
from mlx_jina.search.expansion import Expander, Expansion
from mlx_jina.search.hits import Explanation, Found, Hit, Mode
from mlx_jina.search.postings import Postings
from mlx_jina.search.query import Query, expressions
from mlx_jina.search.ranking import Ranked, Scorer
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.snippets import Highlighter, Span, snippet

if TYPE_CHECKING:
    from mlx_jina.search.meaning import Meaning
    from mlx_jina.text.prompts import Side

    ByMeaning = Callable[[str, Side, Collection[int] | None, Collection[int]], Meaning | None]
    """From a text, whether it is a query or a document, the notes that are allowed, all if None, and chunks whose
    cosines are asked for."""


class SearchOptions(TypedDict, total=False):
    """What `Index.search` takes besides the query and the filters, and explains."""

    chunks: bool
    recent: bool
    min_score: float | None
    min_cosine: float | None
    prefix: bool
    rerank: Scorer | None
    expand: Expander | None
    cancelled: Callable[[], bool] | None


@dataclass(frozen=True)
class Options:
    """How to rank, and what of it to return."""

    limit: int
    mode: Mode
    weight: float
    chunks: bool = False
    """Every chunk a hit, instead of the best one of each note."""
    recent: bool = False
    """Prefer what was modified lately."""
    min_score: float | None = None
    min_cosine: float | None = None


def find(
    connection: sqlite3.Connection,
    highlighter: Highlighter,
    postings: Postings,
    query: Query,
    options: Options,
    by_meaning: ByMeaning | None,
    rerank: Scorer | None = None,
    expand: Expander | None = None,
) -> Found:
    """Search by words, and by meaning if there is a way to; also for what `expand` says. `rerank` reads the best.

    What that raises becomes a warning where words are searched as well.
    """
    allowed = filters.allowed(connection, query)
    total = one(connection, "select count(*) from fts_docsize")
    explanation = Explanation(chunks=total, allowed=None if allowed is None else len(allowed))
    if not query.terms and by_meaning is None:
        newest = _newest(connection, allowed, options.limit)
        return Found(hits(connection, highlighter, newest, (), {}), options.mode, explanation)
    named = _named(connection, query, allowed)
    text = query.text.strip()
    terms = () if options.mode == "meaning" else query.terms
    matched = words.rank(connection, terms, allowed, options.limit, postings)
    asked = {*matched.scores, *(note << NOTE_BITS for note in named)}
    meaning, warning = _meaning(by_meaning, text, options, allowed, asked)
    warnings = [] if warning is None else [warning]
    mode: Mode = "words" if warnings else options.mode
    weight = _weight(options, matched)
    explanation = replace(_explained(explanation, matched, meaning), weight=weight)
    fused = ranking.fuse(matched, meaning, weight, named)
    if expand is not None and text:
        search = partial(_searched, connection, postings, options, allowed, by_meaning if meaning else None)
        strong = expansion.is_strong(matched, named)
        explanation, fused = _expanded(explanation, strong, fused, text, expand, search, warnings)
    ranked = _ranked(connection, options, fused, named)
    best = _best(connection, options, ranked, text, rerank, warnings)
    kept = [term for term in terms if term not in matched.dropped]
    found = hits(connection, highlighter, best, kept, _more(ranked, best))
    return Found(found, mode, explanation, "; ".join(warnings) or None)


def _weight(options: Options, matched: words.Words) -> float:
    """Of the meaning half, for what words found."""
    return 1.0 if options.mode == "meaning" else ranking.balanced(options.weight, matched)


def _explained(explanation: Explanation, matched: words.Words, meaning: Meaning | None) -> Explanation:
    """With what both halves found."""
    return replace(
        explanation,
        mean=meaning.mean if meaning else None,
        best=meaning.best if meaning else None,
        best_bm25=next(iter(matched.scores.values()), None),
        counts=matched.counts,
        dropped=matched.dropped,
    )


def _best(
    connection: sqlite3.Connection,
    options: Options,
    ranked: list[Ranked],
    text: str,
    rerank: Scorer | None,
    warnings: list[str],
) -> Sequence[Ranked]:
    """What becomes hits, in the order that a reranker gives the first ones if there is one."""
    best = ranked if options.chunks else ranking.best_of_notes(ranked)
    count = options.limit if rerank is None else max(options.limit, ranking.RERANKED)
    best = _by_path(connection, ranking.with_ties(best, count))[:count]
    if rerank is not None and text and best:
        with _warned("not reranked", warnings):
            best = _reranked(connection, text, best, rerank)
    return best[: options.limit]


@contextmanager
def _warned(what: str, warnings: list[str]) -> Iterator[None]:
    """A part of a search that the rest does without: what goes wrong with it becomes a warning."""
    try:
        yield
    except MlxJinaError as error:
        warnings.append(f"{what}: {error}")


def _reranked(connection: sqlite3.Connection, query: str, best: Sequence[Ranked], rerank: Scorer) -> list[Ranked]:
    """The best in the order that a reranker, which reads them, gives them together with what they had."""
    # Not before: it imports what cuts notes.
    from mlx_jina.search import chunks

    first = best[: ranking.RERANKED]
    titles = dict(_rows(connection, "id, title", "note", {each.note for each in first}))
    texts = {}
    for chunk, heading, lead, body in _rows(
        connection, "id, heading, lead, body", "chunk", [each.chunk for each in first]
    ):
        texts[chunk] = chunks.embedded(titles[chunk >> NOTE_BITS], heading, lead, body)
    return ranking.blend(best, rerank.score(query, [texts[each.chunk] for each in first]))


def _expanded(
    explanation: Explanation,
    strong: bool,
    fused: list[Ranked],
    text: str,
    expand: Expander,
    search: Callable[[Expansion], Iterator[list[Ranked]]],
    warnings: list[str],
) -> tuple[Explanation, list[Ranked]]:
    """What a question finds together with other words for it, of which it needs none where its own are strong."""
    if strong:
        return replace(explanation, strong=True), fused
    with _warned("not expanded", warnings):
        more = expand.expand(text).bounded(text)
        return replace(explanation, expansion=more), expansion.combine(fused, search(more))
    return explanation, fused


def _searched(
    connection: sqlite3.Connection,
    postings: Postings,
    options: Options,
    allowed: Collection[int] | None,
    by_meaning: ByMeaning | None,
    more: Expansion,
) -> Iterator[list[Ranked]]:
    """What each expansion finds: rewordings as the question itself, the answer by meaning."""
    for text in more.rewordings:
        terms = () if options.mode == "meaning" else expressions(text)
        matched = words.rank(connection, terms, allowed, options.limit, postings)
        meaning = None if by_meaning is None else by_meaning(text, "query", allowed, matched.scores)
        yield ranking.fuse(matched, meaning, _weight(options, matched))
    if more.answer and by_meaning is not None:
        yield ranking.fuse(words.Words(), by_meaning(more.answer, "document", allowed, ()), 1.0)


def _meaning(
    by_meaning: ByMeaning | None,
    text: str,
    options: Options,
    allowed: Collection[int] | None,
    asked: Collection[int],
) -> tuple[Meaning | None, str | None]:
    """What meaning finds, or why it finds nothing though it is asked for."""
    if by_meaning is None:
        return None, None
    try:
        return by_meaning(text, "query", allowed, asked), None
    except MlxJinaError as error:
        if options.mode == "meaning":
            raise
        return None, f"searched by words alone: {error}"


def _ranked(
    connection: sqlite3.Connection, options: Options, ranked: list[Ranked], named: Collection[int]
) -> list[Ranked]:
    """With the notes that only their names speak for, by age if that counts, and without what is too bad."""
    if missing := set(named) - {each.note for each in ranked if each.named}:
        ranked = [*(Ranked(note << NOTE_BITS, 1.0, None, None, True) for note in missing), *ranked]
    if options.recent:
        ranked = _aged(connection, ranked)
    if options.min_score is not None or options.min_cosine is not None:
        ranked = [each for each in ranked if _is_good(each, options)]
    return ranked


def _named(connection: sqlite3.Connection, query: Query, allowed: Collection[int] | None) -> set[int]:
    """The notes whose title or alias the query is."""
    found = {
        note
        for (note,) in connection.execute("select note from name where key = ?", (schema.name_key(query.text),))
    }
    return found if allowed is None else found & set(allowed)


def _newest(connection: sqlite3.Connection, allowed: Collection[int] | None, limit: int) -> list[Ranked]:
    """What filters alone let through: the latest first."""
    rows = connection.execute(f"select id from note where error is null order by {filters.MODIFIED} desc, path")
    found = (note for (note,) in rows if allowed is None or note in allowed)
    return [Ranked(note << NOTE_BITS, 0.0, None, None) for note, _ in zip(found, range(limit), strict=False)]


def _aged(connection: sqlite3.Connection, ranked: Sequence[Ranked]) -> list[Ranked]:
    """Scores that halve with every half-life since a note was modified."""
    modified = dict(_rows(connection, f"id, {filters.MODIFIED}", "note", {each.note for each in ranked}))
    now = time.time()
    ages = {note: max(0.0, now - when) / ranking.HALF_LIFE for note, when in modified.items()}
    return ranking.ordered(each._replace(score=each.score * 0.5 ** ages[each.note]) for each in ranked)


def _is_good(each: Ranked, options: Options) -> bool:
    if options.min_score is not None and each.score < options.min_score and not each.named:
        return False
    return options.min_cosine is None or (each.cosine is not None and each.cosine >= options.min_cosine)


def _by_path(connection: sqlite3.Connection, ranked: Sequence[Ranked]) -> list[Ranked]:
    """Equal ones by their paths."""
    paths = dict(_rows(connection, "id, path", "note", {each.note for each in ranked}))
    return sorted(ranked, key=lambda each: (not each.named, -each.score, paths[each.note], each.chunk))


def _more(ranked: Sequence[Ranked], best: Sequence[Ranked]) -> dict[int, int]:
    """How many other chunks of each note are as good as the last hit."""
    shown = {each.chunk for each in best}
    # Not those of `best`, which a reranker may have changed.
    last = min((each.score for each in ranked if each.chunk in shown), default=float("inf"))
    found: dict[int, int] = {}
    for each in ranked:
        if each.chunk not in shown and each.score >= last:
            found[each.note] = found.get(each.note, 0) + 1
    return found


def hits(
    connection: sqlite3.Connection,
    highlighter: Highlighter,
    ranked: Sequence[Ranked],
    terms: Sequence[str],
    more: dict[int, int],
) -> list[Hit]:
    """Ranked chunks with all that is to be known of them; `terms` are marked in their snippets."""
    columns = f"id, root, path, name, title, tags, {filters.MODIFIED}"
    found = {row[0]: row for row in _rows(connection, columns, "note", {each.note for each in ranked})}
    roots = dict(connection.execute("select id, path from root"))
    columns = "id, start, stop, line, end_line, heading, picture, body"
    chunks = {row[0]: row for row in _rows(connection, columns, "chunk", {each.chunk for each in ranked})}
    spans = highlighter.spans([chunks[each.chunk][-1] for each in ranked], terms)
    shown = {each.note: tuple(showing(connection, each.note)) for each in ranked if chunks[each.chunk][-2]}
    return [
        _hit(
            found[each.note],
            chunks[each.chunk],
            roots,
            each,
            matches,
            more.get(each.note, 0),
            shown.get(each.note, ()),
        )
        for each, matches in zip(ranked, spans, strict=True)
    ]


def _hit(
    note: tuple[Any, ...],
    chunk: tuple[Any, ...],
    roots: dict[int, str],
    ranked: Ranked,
    matches: Sequence[Span],
    more: int,
    shown_in: tuple[str, ...],
) -> Hit:
    _, root, path, name, title, tags, modified = note
    _, start, stop, line, end_line, heading, picture, body = chunk
    shown, names = snippet(body, matches), tuple(from_json(tags))
    # Whoever prints them stumbles otherwise.
    if (
        not all(isinstance(text, str) for text in (path, title, heading, body, *names))
        or not all(isinstance(number, int) for number in (start, stop, line, end_line))
        or not abs(modified) < LATEST
    ):
        raise damaged()
    return Hit(
        id=ranked.chunk,
        path=path,
        absolute_path=os.path.join(roots[root], os.fsdecode(name) if name is not None else path),
        line=line,
        end_line=end_line,
        span=(start, stop),
        title=title,
        heading=heading,
        tags=names,
        modified=modified,
        score=1.0 if ranked.named else max(0.0, min(1.0, ranked.score)),
        cosine=ranked.cosine,
        bm25=ranked.bm25,
        rerank=ranked.rerank,
        text=body,
        snippet=shown.text,
        highlights=shown.highlights,
        more=more,
        picture=picture is not None,
        shown_in=shown_in,
    )


def showing(connection: sqlite3.Connection, picture: int) -> list[str]:
    """Paths of the notes that show a picture, by the id of its own."""
    sql = "select distinct path from embed join note on note.id = embed.note where picture = ? order by path"
    return [path for (path,) in connection.execute(sql, (picture,))]


def _rows(
    connection: sqlite3.Connection, columns: str, table: str, ids: Collection[int]
) -> Iterator[tuple[Any, ...]]:
    """Rows by their ids, looked up one by one: joins would make SQLite choose the order."""
    sql = f"select {columns} from {table} where id = ?"
    for own in ids:
        row = connection.execute(sql, (own,)).fetchone()
        if row is None:
            raise damaged()
        yield row
