"""Which notes a query allows: decided before anything is ranked, so that no filter empties a list with hits."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable

from mlx_jina.search.query import Query
from mlx_jina.search.schema import NOTE_BITS

MODIFIED = "coalesce(modified, mtime_ns / 1e9)"
"""When a note was changed last, in seconds since 1970: as it says itself, else as its file does."""


def allowed(connection: sqlite3.Connection, query: Query) -> set[int] | None:
    """Ids of the notes that may be found; None stands for all of them."""
    if not query.filters:
        return None
    bounds = ((">=", query.since), ("<", query.until))
    limits = [(f"{MODIFIED} {sign} ?", bound) for sign, bound in bounds if bound is not None]
    conditions = " and ".join(["error is null", *(condition for condition, _ in limits)])
    rows = connection.execute(
        f"select note.id, note.path, root.path from note join root on root.id = note.root where {conditions}",
        [bound for _, bound in limits],
    )
    wanted = [_matcher(globs) for globs in query.globs]
    unwanted = [_matcher(query.excluded_globs)] if query.excluded_globs else []
    found = {
        note
        for note, path, root in rows
        if all(matches(path, root) for matches in wanted) and not any(matches(path, root) for matches in unwanted)
    }
    for tag in query.tags:
        found &= _tagged(connection, tag)
    for tag in query.excluded_tags:
        found -= _tagged(connection, tag)
    for expression in query.phrases:
        found &= _matching(connection, expression)
    for expression in query.titles:
        found &= _matching(connection, f"title : {expression}")
    for expression in query.excluded:
        found -= _matching(connection, expression)
    return found


def _matcher(globs: Iterable[str]) -> Callable[[str, str], bool]:
    """Whether a note's path in its root is meant, or, where a glob begins with "/", the note's whole path."""
    within, anchored = pattern(globs), [glob for glob in globs if glob.startswith("/") and glob.strip("/")]
    whole = pattern(anchored) if anchored else None

    def matches(path: str, root: str) -> bool:
        return bool(
            within.match(path)
            or (whole and whole.match(unicodedata.normalize("NFC", f"{root}/{path}").lstrip("/")))
        )

    return matches


def pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """What matches the paths that one of the globs means, in any letter case.

    A glob is a folder or a note, with all that is in it. As in .gitignore, * and ? stop at "/", ** does not, and a
    name without "/" may be at any depth. Nothing else has a meaning: brackets are common in names.
    """
    return re.compile("|".join(map(_translated, globs)), re.IGNORECASE | re.DOTALL)


def _translated(glob: str) -> str:
    glob = unicodedata.normalize("NFC", glob).removeprefix("./")
    anchored = "/" in glob.rstrip("/")
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.strip("/"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    body = "".join(wild.get(part) or re.escape(part) for part in parts)
    return f"{'' if anchored else '(?:.*/)?'}{body}(?:/.*)?$"


def _tagged(connection: sqlite3.Connection, tag: str) -> set[int]:
    """Notes with a tag or one below it."""
    # "0" is the character after "/".
    sql = "select note from tag where key = ? or (key >= ? and key < ?)"
    return _notes(connection, sql, (tag, f"{tag}/", f"{tag}0"))


def _matching(connection: sqlite3.Connection, expression: str) -> set[int]:
    return _notes(connection, f"select distinct rowid >> {NOTE_BITS} from fts where fts match ?", (expression,))


def _notes(connection: sqlite3.Connection, sql: str, values: tuple[object, ...]) -> set[int]:
    return {note for (note,) in connection.execute(sql, values)}
