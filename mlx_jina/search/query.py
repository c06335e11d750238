"""What somebody typed: free text, quoted phrases, words to leave out, and filters. Every string is a query."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from mlx_jina.errors import InputError
from mlx_jina.options import check as check_options
from mlx_jina.search import schema

Date = str | datetime.date | datetime.datetime

# Words of a question that are looked for; more are no question.
_MAX_WORDS = 100
_MAX_CHARACTERS = 10_000
_PART = re.compile(
    r'(?P<key>-?(?:tag|in|title)|after|before):(?:"(?P<quoted>[^"]+)"|(?P<value>[^\s"]\S*))'
    r'|(?P<minus>-)(?:"(?P<not_phrase>[^"]+)"|(?P<not_word>[^\W\d_][^\s"]*))'
    r'|"(?P<phrase>[^"]+)"'
    r"|(?P<text>\S+)"
)
# Also marks that are no letters to Python: accents that follow one, vowels of Hebrew, Arabic, India and Thailand.
_LETTER = (
    r"[\w\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u06d6-\u06ed\u0711\u0730-\u074a"
    rf"\u07a6-\u07b0\u0900-\u0963\u0966-\u0dff\u0f18-\u0fbc{schema.SCRIPTS}]"
)
# Of a version or a name in code the parts alone mean nothing. Those of "boundary-layer" do: as a phrase it would
# miss half of the texts about it.
_INSEPARABLE = re.compile(r"[._\d]")
_WORD = re.compile(r"\w+")
# A single letter begins too many words, and a phrase has ended.
_BEGUN = re.compile(r'"[^\W_]{2,}"')
_SURROGATES = re.compile("[\ud800-\udfff\0]")
# Neighbours that are looked for in scripts without spaces: two characters of Chinese, Japanese and Korean are
# about a word, and of Thai, Lao, Khmer and Myanmar three.
_SOUTH_EAST_ASIAN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


@dataclass(frozen=True)
class Where:
    """Which notes may be found at all. Several globs are alternatives, several tags have to be there together.

    What is typed narrows it further.
    """

    glob: str | Sequence[str] = ()
    """Paths with *, ** and ?, as "projects/**"; or a folder, or a note."""
    tags: str | Sequence[str] = ()
    """"recipe" also stands for "recipe/soup"."""
    title: str = ""
    """Words of the title or an alias."""
    since: Date | None = None
    until: Date | None = None
    """Last modified on this day or later, on this day or earlier."""


@dataclass(frozen=True)
class Query:
    """A query, taken apart."""

    text: str
    """What is embedded."""
    terms: tuple[str, ...]
    """Words and phrases to rank by, each an expression of FTS5's."""
    phrases: tuple[str, ...] = ()
    """Expressions that a note has to match."""
    excluded: tuple[str, ...] = ()
    """Expressions that a note must not match."""
    titles: tuple[str, ...] = ()
    """Expressions that a note's names have to match."""
    globs: tuple[tuple[str, ...], ...] = ()
    """Of each group one has to match: of those in `where`, of those that were typed."""
    tags: tuple[str, ...] = ()
    excluded_globs: tuple[str, ...] = ()
    excluded_tags: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    """Bounds of the time of the last change, in seconds since 1970; `until` is excluded."""

    @property
    def filters(self) -> bool:
        """Whether it asks for some notes only."""
        wanted = self.phrases or self.titles or self.globs or self.tags
        unwanted = self.excluded or self.excluded_globs or self.excluded_tags
        return bool(wanted or unwanted) or not (self.since is None and self.until is None)


def parse(typed: str, where: Where | None = None, prefix: bool = False) -> Query:
    """Take a query apart: "a phrase", -word, after:, before:, tag:, in:, title:, -tag: and so on, and the rest.

    With `prefix` the last word may be the beginning of one, if nothing stands behind it yet.

    A key counts only with something right behind it. Raises InputError for dates in `where` that are none; a date
    that somebody typed and that is none is text.
    """
    parts = _Parts(Where() if where is None else where)
    for match in _PART.finditer(_SURROGATES.sub(" ", typed)[:_MAX_CHARACTERS]):
        if match["key"]:
            parts.add(match["key"], match["quoted"] or match["value"], match[0])
        elif match["minus"]:
            parts.excluded.append(_phrase(match["not_phrase"] or match["not_word"]))
        elif match["phrase"] and _WORD.search(match["phrase"]):
            parts.phrases.append(match["phrase"])
        else:
            parts.free.append(match[0])
    query = parts.query()
    if prefix and query.terms and parts.free and typed.endswith(parts.free[-1]):
        *terms, last = query.terms
        if _BEGUN.fullmatch(last):
            query = replace(query, terms=(*terms, f"{last} *"))
    return query


class _Parts:
    """What has been read of a query."""

    def __init__(self, where: Where) -> None:
        self.free: list[str] = []
        self.phrases: list[str] = []
        self.excluded: list[str] = []
        if not isinstance(where, Where):
            raise InputError(f"where={where!r} must be a mlx_jina.Where, not {type(where).__name__}")
        check_options(glob=where.glob, tags=where.tags, title=where.title)
        self.titles = expressions(where.title)
        self.globs: list[str] = []
        self.outer_globs = _listed(where.glob)
        for glob in self.outer_globs:
            if not glob.strip("/ ") and glob != "/":
                raise InputError(f"glob={glob!r} names no folder or note")
        self.excluded_globs: list[str] = []
        self.tags = list(_listed(where.tags))
        self.excluded_tags: list[str] = []
        for tag in self.tags:
            if not tag.strip("# "):
                raise InputError(f"tags={tag!r} is no tag")
        self.since = _checked(where.since)[0]
        self.until = _checked(where.until)[1]

    def add(self, key: str, value: str, typed: str) -> None:
        """A filter, as it was `typed`."""
        if key in ("tag", "-tag"):
            (self.tags if key == "tag" else self.excluded_tags).append(value)
        elif key in ("in", "-in"):
            (self.globs if key == "in" else self.excluded_globs).append(value)
        elif key in ("title", "-title"):
            words = expressions(value) or [_quoted(value)]
            if key == "title":
                self.titles += words
            else:
                self.excluded.append(" AND ".join(f"title : {word}" for word in words))
        elif (period := _period(value)) is None:
            self.free.append(typed)
        elif key == "after":
            self.since = period[0] if self.since is None else max(self.since, period[0])
        else:
            self.until = period[0] if self.until is None else min(self.until, period[0])

    def query(self) -> Query:
        """All of it."""
        quoted = [_phrase(phrase) for phrase in self.phrases]
        terms = dict.fromkeys([*quoted, *expressions(" ".join(self.free))])
        return Query(
            text=" ".join([*self.phrases, *self.free]),
            terms=tuple(terms)[:_MAX_WORDS],
            phrases=tuple(quoted),
            excluded=tuple(self.excluded),
            titles=tuple(self.titles),
            globs=tuple(tuple(group) for group in (self.outer_globs, self.globs) if group),
            tags=tuple(map(_tag, self.tags)),
            excluded_globs=tuple(self.excluded_globs),
            excluded_tags=tuple(map(_tag, self.excluded_tags)),
            since=self.since,
            until=self.until,
        )


def expressions(text: str) -> list[str]:
    """The words of a text as FTS5 looks for them; versions and names in code are phrases."""
    found = []
    for match in _compound(text.isascii()).finditer(text):
        parts = [match[0]] if _INSEPARABLE.search(match[0]) else re.split(r"[-'\u2019]", match[0])
        for unspaced, run in (each for part in parts for each in schema.unspaced_runs(part)):
            if unspaced:
                found += _neighbours(run)
            elif _WORD.search(run):
                found.append(_quoted(run.lower()))
    return found


@cache
def _compound(ascii_only: bool) -> re.Pattern[str]:
    """What holds a compound together; other signs part words. All scripts take milliseconds to compile."""
    letter = r"\w" if ascii_only else _LETTER
    return re.compile(rf"{letter}+(?:[-._'\u2019]{letter}+)*")


def _neighbours(run: str) -> list[str]:
    size = 3 if _SOUTH_EAST_ASIAN.match(run) else 2
    parts = [run[i : i + size] for i in range(max(1, len(run) - size + 1))]
    return [_quoted(" ".join(part)) for part in parts]


def _phrase(text: str) -> str:
    """All of a text, word by word, as a phrase of FTS5's."""
    return _quoted(
        " ".join(" ".join(run) if unspaced else run.lower() for unspaced, run in schema.unspaced_runs(text))
    )


def _quoted(words: str) -> str:
    """A string of FTS5's, in which nothing has a meaning."""
    return '"' + words.replace('"', '""') + '"'


def _tag(typed: str) -> str:
    """A tag as the index has it."""
    return typed.lstrip("#").strip("/").casefold()


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _period(value: Date) -> tuple[float, float] | None:
    """The seconds, from and until, of the year, month, day or moment that somebody means; None if there is none.

    2026, 2026-11, 2026-11-26, or with a time behind it; local time where no zone is given.
    """
    try:
        if isinstance(value, str):
            short = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", value.strip())
            if short is None:
                moment = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
                return moment, moment
            year, month, day = (int(part or 1) for part in short.groups())
            first = datetime.date(year, month, day)
            months = year * 12 + month - 1 + (12 if short[2] is None else 1)
            following = datetime.date(months // 12, months % 12 + 1, 1)
            return _midnight(first), _midnight(first + datetime.timedelta(1) if short[3] else following)
        if isinstance(value, datetime.datetime):
            return value.timestamp(), value.timestamp()
        return _midnight(value), _midnight(value + datetime.timedelta(1))
    # Also years that no clock counts.
    except (ValueError, OverflowError, OSError):
        return None


def _midnight(day: datetime.date) -> float:
    return datetime.datetime(day.year, day.month, day.day).timestamp()


def _checked(value: Date | None) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    if not isinstance(value, (str, datetime.date)) or (period := _period(value)) is None:
        raise InputError(f"{value!r} is no date; write one as 2026-11-26")
    return period
