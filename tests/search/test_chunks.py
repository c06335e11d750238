"""Chunks: exact spans that leave nothing out, of bounded size, below the headings they stand under."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_jina.search import chunks as chunking
from mlx_jina.search.chunks import TOKENS, WHOLE_TOKENS, chunks, embedded, estimate
from mlx_jina.search.documents import read
from mlx_jina.search.documents.base import Document

PIECES = [
    *"aZ .,!?;:-'\"()#*>|`~=_[]<%^$&\\/\t\u00a0\u2028\x0c\x0b",
    *("\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " \n", "  "),
    *("# One\n", "## Two\n", "### Three\n", "Title\n=====\n", "Sub\n---\n", "* org heading :tag:\n", "---\n"),
    *("- item\n", "  - nested\n", "1. first\n", "> quote\n", "```py\n", "```\n", "~~~\n", "    code\n", "***\n"),
    *(
        "| a | b |\n|---|---|\n",
        "| 1 | 2 |\n",
        "<div>",
        "</div>",
        "<!--",
        "-->",
        "%%",
        "&amp;",
        "[ref]: http://x\n",
    ),
    *("[[Note|alias]]", "[text](a.md)", "#tag", "==mark==", "^block", "![[embed]]", ":PROPERTIES:\n", ":END:\n"),
    *(
        "A sentence. ",
        "Two words ",
        "今天天气很好。",
        "สวัสดีครับ",
        "हिन्दी ",
        "👩\u200d👩\u200d👧",
        "👋🏽",
        "🇩🇪",
        "e\u0301",
    ),
]
texts = st.lists(
    st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60
).map("".join)
NAMES = ["a.md", "a.txt", "a.org", "a.rst", "a.py"]


def document(text: str, name: str = "a.md") -> Document:
    """As it is read from a file."""
    return read(name, text.encode())


def is_covered(text: str, start: int, spans: list[tuple[int, int]]) -> bool:
    """Whether everything from `start` but white space lies in a span."""
    left = list(text)
    for first, last in spans:
        left[first:last] = " " * (last - first)
    return not "".join(left[start:]).strip()


@given(text=texts, name=st.sampled_from(NAMES), tokens=st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_spans_are_the_text_and_leave_nothing_out(text: str, name: str, tokens: int) -> None:
    found = document(text, name)
    # A byte order mark is no part of a text, and whatever else the file holds is.
    assert found.text == text.removeprefix("\ufeff")
    cut = chunks(found, tokens)
    spans = [(chunk.start, chunk.stop) for chunk in cut]
    assert spans == sorted(spans)
    assert all(last <= first for (_, last), (first, _) in pairwise(spans))
    start = found.blocks[0].start if found.blocks else len(found.text)
    hidden = [(first, last) for first, last in found.hidden]
    assert is_covered(found.text, start, spans + hidden)
    for chunk in cut:
        source = found.text[chunk.start : chunk.stop]
        assert len(source) == len(chunk.body)
        assert all(shown in (char, " ") for shown, char in zip(chunk.body, source, strict=True))
        if not hidden:
            assert source == chunk.body
        assert chunk.line <= chunk.end_line
        lines = re.split("\r\n|\r|\n", found.text[: chunk.start])
        assert chunk.line == len(lines)


@given(text=texts, tokens=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_no_chunk_is_longer_than_asked(text: str, tokens: int) -> None:
    for chunk in chunks(document(text * 5), tokens):
        size = estimate(chunk.body)
        # Whole code and tables may be longer, and so may a mark with all the accents that belong to it.
        assert size <= max(WHOLE_TOKENS, tokens) + 64


def test_an_emoji_is_never_cut_in_half() -> None:
    family, wave, flag, accent = "👩\u200d👩\u200d👧", "👋🏽", "🇩🇪", "e\u0301"
    for unit in (family, wave, flag, accent):
        text = unit * 500
        for tokens in (1, 2, 3, 7):
            cut = chunks(document(text), tokens)
            assert len(cut) > 10
            assert all(len(chunk.body) % len(unit) == 0 for chunk in cut), unit


def test_marks_without_end_do_not_make_one_endless_chunk() -> None:
    assert max(len(chunk.body) for chunk in chunks(document("a" + "\u0301" * 5000), 20)) < 200


def test_sections_of_two_levels_stay_apart_and_small_ones_together() -> None:
    body = "Some words about it. " * 20
    text = f"# Title\n\n{body}\n\n## First\n\n{body}\n\n### Deep\n\n{body}\n\n## Second\n\n{body}\n"
    cut = chunks(document(text), 200)
    assert [chunk.heading for chunk in cut] == ["", "First", "First > Deep", "Second"]
    small = chunks(document("# Title\n\nOne.\n\n## First\n\nTwo.\n\n## Second\n\nThree.\n"))
    assert len(small) == 1
    assert small[0].body.startswith("# Title")


def test_deeper_headings_are_crossed_where_there_is_room() -> None:
    text = "## Part\n\n" + "".join(f"### Step {n}\n\nDo the thing number {n} now.\n\n" for n in range(30))
    cut = chunks(document(text), 100)
    assert 3 < len(cut) < 15
    assert cut[0].heading == "Part > Step 0"
    assert all(re.match("#{2,3} ", chunk.body) for chunk in cut)
    assert all(chunk.heading.startswith("Part > Step ") for chunk in cut)


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "word " * 200 + "\n\n### Heading\n\n" + "more " * 150
    last = chunks(document(text), 256)[-1]
    assert last.body.startswith("### Heading")


def test_code_and_tables_are_whole_up_to_twice_the_size() -> None:
    code = "```py\n" + "".join(f"value_{n} = {n}\n" for n in range(60)) + "```\n"
    assert TOKENS < estimate(code) < WHOLE_TOKENS
    (chunk,) = chunks(document(code))
    assert chunk.body == code.strip()
    table = "| name | number |\n|---|---|\n" + "".join(f"| row {n} | {n} |\n" for n in range(200))
    parts = chunks(document(table))
    assert len(parts) > 2
    assert [part.lead for part in parts] == ["", *["| name | number |"] * (len(parts) - 1)]
    assert all(part.body.startswith("| row") for part in parts[1:])
    # The names of the columns are embedded with every part, and no part of the span.
    assert embedded("T", "", parts[1].lead, parts[1].body).splitlines()[1] == "| name | number |"


def test_long_paragraphs_are_cut_at_sentences_then_words() -> None:
    sentences = "".join(f"This is sentence number {n} of a long paragraph. " for n in range(100))
    assert all(chunk.body.endswith(".") for chunk in chunks(document(sentences), 50))
    chinese = "今天天气很好。" * 200
    assert all(chunk.body.endswith("。") for chunk in chunks(document(chinese), 50))
    words = "word " * 1000
    assert all(set(chunk.body.split()) == {"word"} for chunk in chunks(document(words), 50))
    items = "".join(f"- item {n}\n" for n in range(200))
    assert all(chunk.body.startswith("- item") for chunk in chunks(document(items), 50))


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200_000,
        "a" * 500_000,
        "<!--" * 50_000,
        "`a``b```c````" * 10_000,
        "<a b<a b " * 25_000,
        "[[" * 150_000,
        "%%\n" * 25_000,
        ":PROPERTIES:\n" * 25_000,
        "---\n" + "a: &a [x]\n" * 1000,
    ],
    ids=["words", "letters", "comments", "ticks", "tags", "brackets", "percents", "drawers", "yaml"],
)
def test_no_megabytes_of_anything_take_minutes(text: str) -> None:
    started = time.process_time()
    for name in ("a.md", "a.org"):
        chunks(document(text, name))
    # A quadratic pattern would take hours.
    assert time.process_time() - started < 60


def test_what_is_embedded_begins_with_the_title_and_the_headings() -> None:
    text = "Feed [the starter](starter.md) and [[Flour|wheat]] daily. <!-- not this -->\n"
    long = "And so on. " * 40
    (_, chunk) = chunks(document(f"# Sourdough\n\n{long}\n\n## Feeding\n\n{text}\n{long}\n"))
    assert embedded("Sourdough", chunk.heading, chunk.lead, chunk.body) == (
        f"Sourdough > Feeding\nFeed [the starter] and wheat daily.\n{long.strip()}"
    )
    (rst,) = chunks(document("Title\n=====\n\nSome text.\n", "a.rst"))
    assert embedded("Title", rst.heading, rst.lead, rst.body) == "Title\nSome text."
    assert embedded("Only a title", "", "", "") == "Only a title"
    long = embedded("t" * 5000, "h" * 5000, "", "text")
    assert len(long) < 1000


def test_an_empty_note_keeps_its_title() -> None:
    for text in ("", "\n\n", "---\ntitle: Later\n---\n", "%%only a comment%%\n"):
        (chunk,) = chunks(document(text))
        assert (chunk.body.strip(), chunk.start <= chunk.stop) == ("", True)


def test_the_estimate_is_from_above_for_english() -> None:
    from mlx_jina import load

    model = load("pocket")
    text = read_pages()
    parts = [chunk.body for chunk in chunks(document(text))]
    assert len(parts) > 30
    over = [len(tokens) - 2 - estimate(part) for part, tokens in zip(parts, model.tokenize(parts), strict=True)]
    # Pages full of code and tables; prose stays a fifth below.
    assert sum(number > 0 for number in over) <= 0.3 * len(parts)
    assert max(over) < 0.15 * TOKENS


def read_pages() -> str:
    """Long, with tables and code."""
    root = Path(chunking.__file__).parents[2]
    return "\n\n".join(page.read_text(encoding="utf-8") for page in sorted(root.glob("docs/*.md")))
