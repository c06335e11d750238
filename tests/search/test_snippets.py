"""Snippets: the best sentence, in one line, with the spans that match."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_jina.search.snippets import LENGTH, Highlighter, snippet
from tests.search.test_chunks import texts


def marked(text: str, *words: str) -> str:
    """The snippet of a text for some words, matches in brackets."""
    highlighter = Highlighter()
    spans = highlighter.spans([text], [f'"{word}"' for word in words])[0]
    highlighter.close()
    found = snippet(text, spans)
    parts, here = [], 0
    for start, stop in found.highlights:
        parts += [found.text[here:start], "<", found.text[start:stop], ">"]
        here = stop
    return "".join([*parts, found.text[here:]])


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        (
            "One sentence. Another about ovens. The oven is hot, oh oven!",
            ["oven", "hot"],
            "The <oven> is <hot>, oh <oven>!",
        ),
        ("# Title\n\nThe first sentence. The second.", [], "The first sentence."),
        ("# Only a title", [], "Only a title"),
        ("- [ ] buy **flour** today\n- [x] eat", ["flour"], "buy <flour> today"),
        ("> | a | flour |", ["flour"], "a | <flour>"),
        (
            "See [the flour](x/y.md) and [[Note|bread]] now.",
            ["flour", "bread"],
            "See the <flour> and <bread> now.",
        ),
        ("A ==marked== `code` word__s and __bold__ one.", ["marked"], "A <marked> code word__s and bold one."),
        ("Version 1.0.21 is out. e.g. this", ["1.0.21"], "Version <1.0.21> is out."),
        ("我们运行模型。电脑很好。", ["电 脑"], "<电脑>很好。"),
        ("two\nlines of\ttext", ["lines"], "<lines> of text"),
        ("-5 degrees and #tag", ["degrees"], "-5 <degrees> and #tag"),
        ("", [], ""),
    ],
)
def test_the_sentence_that_matches_best(text: str, words: list[str], shown: str) -> None:
    assert marked(text, *words) == shown


def test_long_sentences_are_cut_around_the_match() -> None:
    text = "word " * 200 + "oven " + "word " * 200
    found = marked(text, "oven")
    assert "<oven>" in found
    assert len(found) <= LENGTH + 2


def test_a_cut_behind_markup_shows_none_of_it() -> None:
    text = "_" + 20 * "ab" + "_ " + 57 * "c" + " needle " + 80 * "tail "
    found = snippet(text, [(text.index("needle"), text.index("needle") + 6)])
    assert found.text.startswith("ccc")
    assert [found.text[a:b] for a, b in found.highlights] == ["needle"]


@given(text=texts, words=st.lists(st.sampled_from(["a", "item", "two", "code", "今 天", "sentence"]), max_size=3))
@settings(max_examples=200, deadline=None)
def test_spans_lie_in_the_snippet(text: str, words: list[str]) -> None:
    highlighter = Highlighter()
    spans = highlighter.spans([text, text], [f'"{word}"' for word in words])
    highlighter.close()
    assert spans[0] == spans[1]
    assert all(0 <= a < b <= len(text) for a, b in spans[0])
    found = snippet(text, spans[0])
    assert found.text.isprintable() or set(found.text) & set("\u200c\u200d")
    assert "\n" not in found.text
    assert len(found.text) <= LENGTH
    here = 0
    for start, stop in found.highlights:
        assert here <= start < stop <= len(found.text)
        here = stop
