"""What programs get of a search: plain dictionaries, which `--json`, the server and the page share."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_jina.search.hits import Explanation, Found, Hit

if TYPE_CHECKING:
    from mlx_jina.search.neighbours import Duplicate

Answer = dict[str, Any]


def of_search(query: str, found: Found, uri: str | None, *, took: float, unread: int, explain: bool) -> Answer:
    """A whole answer: what was asked, how it was found, and the hits.

    `took` are seconds, `unread` notes that changed since the index read them.
    """
    answer = {
        "query": query,
        "mode": found.mode,
        "model": found.model,
        "fingerprint": found.fingerprint,
        "took_ms": round(1000 * took),
        "stale": {"words": unread, "vectors": found.waiting},
        "warning": found.warning,
    }
    if explain:
        answer["explanation"] = explained(found.explanation)
    return {**answer, "chunks": found.explanation.chunks, "hits": [of_hit(hit, uri) for hit in found.hits]}


def of_hit(hit: Hit, uri: str | None) -> Answer:
    """A hit. A path may hold bytes that are no UTF-8, as lone surrogates: `written` spells them out."""
    return {
        "id": hit.id,
        "path": hit.path,
        "absolute_path": hit.absolute_path,
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
        "rerank": None if hit.rerank is None else round(hit.rerank, 4),
        "snippet": hit.snippet,
        "highlights": [list(span) for span in hit.highlights],
        "more": hit.more,
        "picture": hit.picture,
        "shown_in": list(hit.shown_in),
        "uri": hit.uri_by(uri) if uri else hit.uri,
    }


def of_duplicates(threshold: float, pairs: Iterable[Duplicate]) -> Answer:
    """Pairs of notes that say the same, with the lowest cosine that was asked for."""
    rows = [
        {"path": pair.path, "other": pair.other, "cosine": round(pair.cosine, 4), "identical": pair.identical}
        for pair in pairs
    ]
    return {"threshold": threshold, "duplicates": rows}


def written(hit: Answer) -> Answer:
    """A hit whose path any program can read: bytes that are no UTF-8 are spelled out."""
    path = os.fsencode(hit["absolute_path"]).decode("utf-8", "backslashreplace")
    return {**hit, "absolute_path": path}


def for_alfred(query: str, hits: Sequence[Answer]) -> Answer:
    """The list of a Script Filter: https://www.alfredapp.com/help/workflows/inputs/script-filter/json/.

    Return opens the file, with Command the `uri`; `skipknowledge` keeps the hits in their order.
    """
    items: list[Answer] = [_for_alfred(hit) for hit in hits]
    if not items:
        items = [{"title": "No note found", "subtitle": query, "valid": False}]
    return {"skipknowledge": True, "items": items}


def _for_alfred(hit: Answer) -> Answer:
    path, place = hit["absolute_path"], f"{hit['path']}:{hit['line']}"
    return {
        "uid": place,
        "title": " > ".join(filter(None, (hit["title"], hit["heading"]))),
        "subtitle": f"{place}  {hit['snippet']}",
        "arg": path,
        "type": "file",
        "icon": {"type": "fileicon", "path": path},
        "quicklookurl": path,
        "text": {"copy": f"{path}:{hit['line']}", "largetype": hit["snippet"]},
        "mods": {"cmd": {"arg": hit["uri"], "subtitle": hit["uri"], "valid": True}},
    }


def explained(why: Explanation) -> Answer:
    """How all scores came about."""
    return {
        "chunks": why.chunks,
        "allowed_notes": why.allowed,
        "mean_cosine": why.mean,
        "best_cosine": why.best,
        "best_bm25": why.best_bm25,
        "weight": why.weight,
        "expansion": None if why.expansion is None else dataclasses.asdict(why.expansion),
        "words_match_strongly": why.strong,
        "words": {term.strip('"').replace('""', '"'): count for term, count in why.counts.items()},
        "dropped": [term.strip('"').replace('""', '"') for term in why.dropped],
    }
