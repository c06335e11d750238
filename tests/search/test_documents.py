"""What is read of each kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_jina.search import notes
from mlx_jina.search.chunks import chunks
from mlx_jina.search.documents import read
from mlx_jina.search.documents.base import Document, UnreadableError
from mlx_jina.search.documents.decode import decode
from mlx_jina.search.documents.kinds import SUFFIXES
from mlx_jina.search.walk import Entry


def markdown(text: str) -> Document:
    """A note in Markdown."""
    return read("note.md", text.encode())


def blocks(document: Document) -> list[tuple[str, str]]:
    """Kinds and texts."""
    return [(block.kind, document.text[block.start : block.stop]) for block in document.blocks]


# ---- bytes


def test_encodings() -> None:
    assert decode("grün".encode()) == ("grün", None)
    assert decode("grün".encode("utf-8-sig")) == ("grün", None)
    assert decode(b"\xff\xfe" + "grün 👋".encode("utf-16-le")) == ("grün 👋", None)
    assert decode(b"\xfe\xff" + "grün".encode("utf-16-be")) == ("grün", None)
    # The first mark begins with that of UTF-16.
    assert decode(b"\xff\xfe\0\0" + "grün 👋".encode("utf-32-le")) == ("grün 👋", None)
    assert decode(b"\0\0\xfe\xff" + "grün".encode("utf-32-be")) == ("grün", None)
    text, remark = decode(b"one\n\x93gr\xfcn\x94 \x81")
    assert text == "one\n“grün” \x81"
    assert remark == "read as Windows-1252, since it is not UTF-8 (line 2)"
    with pytest.raises(UnreadableError, match="NUL"):
        decode(b"\x89PNG\r\n\x1a\n\0\0\0")
    # A NUL far behind is a slip of somebody's, and not a sign of another kind of file.
    assert decode(b"a" * 9000 + b"\0")[0].endswith("\0")


@given(
    data=st.binary(max_size=300) | st.text(max_size=200).map(str.encode), name=st.sampled_from(sorted(SUFFIXES))
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_note_or_a_reason(data: bytes, name: str) -> None:
    entry = Entry("a" + name, "a" + name, len(data), 0, 0)
    note = notes.read(entry, data, 0.0)
    assert (note.error is None) == bool(note.chunks)
    assert note.title
    if note.document is not None:
        # What goes to SQLite has to be Unicode.
        "".join([note.title, *note.aliases, *note.document.tags, note.document.text]).encode()
        assert all(chunk.body.encode() is not None for chunk, _ in note.chunks)


# ---- Markdown


def test_front_matter() -> None:
    document = markdown(
        "---\ntitle: A: quoted\ntags: [house, project/garden, '#sun']\naliases:\n  - Other\n  - Second name\n"
        "created: 2026-01-02\nupdated: 2026-02-03T10:00:00Z\nrating: 5\n---\n# Heading\n\ntext\n"
    )
    # With a blank behind the colon, YAML takes it for a mapping within one.
    assert document.title == "Heading"
    document = markdown(
        "---\ntitle: 'A: quoted'\ntags: [house, project/garden, '#sun']\naliases:\n  - Other\n  - Second name\n"
        "created: 2026-01-02\nupdated: 2026-02-03T10:00:00Z\nrating: 5\n---\n# Heading\n\ntext\n"
    )
    assert document.title == "A: quoted"
    assert document.tags == ["house", "project/garden", "sun"]
    assert document.aliases == ["Other", "Second name"]
    assert document.properties["rating"] == 5
    assert document.modified == 1770112800.0
    assert document.created is not None
    assert chunks(document)[0].body == "# Heading\n\ntext"
    assert chunks(document)[0].line == 11


def test_a_date_that_is_none_is_words() -> None:
    document = markdown("---\ntitle: Trip\ndate: 2024-13-45\ntags: [a]\nupdated: 2026-02-03\n---\nbody")
    assert (document.title, document.tags, document.created) == ("Trip", ["a"], None)
    assert document.properties["date"] == "2024-13-45"
    assert document.modified is not None
    assert chunks(document)[0].body == "body"


@pytest.mark.parametrize(
    "text",
    [
        "---\n- a list\n---\nbody",
        "---\nkey: [unclosed\n---\nbody",
        "---\njust a sentence\n---\nbody",
        "---\nno end: here\nbody",
        "--- \n\n---\n\n# Two rules, no front matter",
        "---\n? [complex, key]\n: value\n---\nbody",
        "text\n---\ntitle: no\n---\n",
    ],
)
def test_what_is_no_front_matter_is_text(text: str) -> None:
    document = markdown(text)
    assert document.tags == []
    assert "body" in chunks(document)[-1].body or "no" in chunks(document)[-1].body


def test_tags_are_lists_words_or_inline() -> None:
    assert markdown("---\ntags: one two, three\n---\n").tags == ["one", "two", "three"]
    assert markdown("---\ntag: one\nkeywords: [two, 3]\n---\n").tags == ["one", "two", "3"]
    text = "#start and #sub/tag, not#this nor #123 nor `#code` nor [x](#anchor) nor a.b/#c but #y2026\n"
    assert markdown(text).tags == ["start", "sub/tag", "y2026"]
    text = "#a <b style='color: #c1a1a1'>#d</b> <!-- #e --> #f %%#g%% `<i` #h `>`\n\n[name]: #anchor\n[i]:#j\n"
    assert markdown(text).tags == ["a", "d", "f", "h"]
    assert markdown("```\n#no\n```\n\n    #no\n\n# Heading #yes\n").tags == ["yes"]


@pytest.mark.parametrize(
    ("text", "target", "alt"),
    [
        ("![a](Shot%20(1).png)", "./Shot (1).png", "a"),
        ('![a](f(1)(2).png "b")', "./f(1)(2).png", "a b"),
        ("![Figure [1], after [2]](f.png)", "./f.png", "Figure [1], after [2]"),
        # As Obsidian writes it in a table.
        ("| a | b |\n|---|---|\n| ![[f.png\\|a note]] | c |", "f.png", "a note"),
        ('<img src="f.png" data-src="wait.png" alt="a" data-alt="b">', "./f.png", "a"),
    ],
)
def test_pictures_are_named_in_many_ways(text: str, target: str, alt: str) -> None:
    assert [(link.target, link.alt) for link in markdown(text).links] == [(target, alt)]


@pytest.mark.parametrize(
    "begun", ["[[" + "a\\" * 100_000, "](" + "a" * 200_000, "# [a](" + "a" * 200_000, "![a](" + "(a)" * 70_000]
)
def test_a_link_that_never_ends(begun: str) -> None:
    assert markdown(begun).links == []


def test_links_by_name_and_by_path() -> None:
    document = markdown(
        "[[Note]] [[folder/Deep#Part|shown]] ![[image.png]]\n"
        "[a](other.md) [b](<with space.md>) [c](sub/x%20y.md#part) [d](https://example.org) [e](#here)\n"
        "```\n[[not this]]\n```\n"
    )
    assert [(link.target, link.line) for link in document.links] == [
        ("Note", 1),
        ("folder/Deep", 1),
        ("image.png", 1),
        ("./other.md", 2),
        ("./with space.md", 2),
        ("./sub/x y.md", 2),
    ]


def test_comments_and_tags_of_html_are_hidden_and_code_is_not() -> None:
    text = (
        "Shown <!-- hidden\n\nalso --> shown %%hidden%% shown <b class='x'>bold</b> a < b and c > d ^block-id\n\n"
        "%%\nhidden block\n%%\n\n`<b>` code `%%kept%%`\n\n```html\n<b>kept</b> <!-- kept -->\n```\n\n"
        "==mark== 100%% sure\n"
    )
    (chunk,) = chunks(markdown(text))
    assert "hidden" not in chunk.body
    assert "class" not in chunk.body
    assert "block-id" not in chunk.body
    for kept in (
        "shown",
        "bold",
        "a < b and c > d",
        "`<b>`",
        "`%%kept%%`",
        "<b>kept</b> <!-- kept -->",
        "100%% sure",
    ):
        assert kept in chunk.body, kept


def test_blocks_of_markdown() -> None:
    document = markdown(
        "# One\nText\nmore\n\nTwo\n===\n\n- a\n  - b\n\n  c\n- d\n\n> quote\n> - item\n\n"
        "```\n# code\n```\n\n| a |\n|---|\n| b |\n"
    )
    assert blocks(document) == [
        ("heading", "# One\n"),
        ("text", "Text\nmore\n\n"),
        ("heading", "Two\n===\n\n"),
        ("item", "- a\n  - b\n\n  c\n"),
        ("item", "- d\n\n"),
        ("text", "> quote\n> - item\n\n"),
        ("code", "```\n# code\n```\n\n"),
        ("table", "| a |\n|---|\n| b |\n"),
    ]
    assert document.title == "One"
    heading = markdown("## The **bold** [link](x.md), [[Note|alias]] and `code` \n").blocks[0]
    assert heading.title == "The bold link, alias and code"


def test_yaml_without_end_costs_nothing() -> None:
    laughs = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    entry = Entry("a.md", "a.md", 1, 0, 0)
    note = notes.read(entry, f"---\n{laughs}---\nbody\n".encode(), 0.0)
    assert note.error is None
    assert note.document is not None
    assert len(json.dumps(notes.plain(note.document.properties))) < 10_000


# ---- other kinds


def test_html() -> None:
    document = read(
        "a.html",
        b"<html><head><title>The  page</title><style>p{}</style></head>\n<body><nav>menu</nav><h1>Head</h1>\n"
        b"<p>First &amp; <b>bold</b>\nline</p><script>var x = '<p>';</script><ul><li>one<li>two</ul>\n"
        b"<pre>  code\n    here</pre><p>caf&eacute;</body>",
    )
    assert document.title == "The page"
    assert blocks(document) == [
        ("heading", "Head\n\n"),
        ("text", "First & bold line\n\n"),
        ("text", "one\n\n"),
        ("text", "two\n\n"),
        ("code", "  code\n    here\n\n"),
        ("text", "café\n\n"),
    ]
    assert [document.lines.number(block.start) for block in document.blocks] == [2, 3, 4, 4, 5, 6]


def test_notebooks() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words #tag [[Note]] <!-- hidden -->"]},
        {"cell_type": "code", "source": "x = 1\n# no heading", "outputs": [{"text": "not this"}]},
        {"cell_type": "markdown", "source": ""},
        {"cell_type": "markdown", "source": "## Part\n\nmore"},
    ]
    document = read("a.ipynb", json.dumps({"cells": cells, "metadata": {}}).encode())
    assert document.title == "Title"
    assert document.tags == ["tag"]
    assert [link.target for link in document.links] == ["Note"]
    assert "not this" not in document.text
    kinds = [kind for kind, _ in blocks(document)]
    assert kinds == ["heading", "text", "code", "heading", "text"]
    (chunk,) = chunks(document)
    assert (chunk.line, chunk.end_line) == (1, 4)
    assert "hidden" not in chunk.body
    for bad in (b"{", b"[]", b'"x"', b""):
        with pytest.raises(UnreadableError, match="notebook"):
            read("a.ipynb", bad)
    assert read("a.ipynb", b'{"cells": 5}').text == ""


def test_canvas() -> None:
    nodes = [
        {"id": "1", "type": "text", "text": "First card #idea"},
        {"id": "2", "type": "file", "file": "folder/Note.md"},
        {"id": "3", "type": "group", "label": "A group"},
    ]
    document = read("a.canvas", json.dumps({"nodes": nodes, "edges": []}).encode())
    assert [text.strip() for _, text in blocks(document)] == ["First card #idea", "A group"]
    assert [document.lines.number(block.start) for block in document.blocks] == [1, 3]
    assert document.tags == ["idea"]
    assert [link.target for link in document.links] == ["folder/Note.md"]
    assert read("a.canvas", b"").text == ""


def test_surrogates_of_json_become_valid_text() -> None:
    document = read("a.canvas", b'{"nodes": [{"type": "text", "text": "a \\ud800 b"}]}')
    assert document.text.strip() == "a \N{REPLACEMENT CHARACTER} b"


def test_org() -> None:
    document = read(
        "a.org",
        b"#+TITLE: My notes\n#+FILETAGS: :work:home:\n* TODO First :tag:\n:PROPERTIES:\n:ID: 5\n:END:\ntext\n"
        b"# a comment\n** Second\nmore\n",
    )
    assert document.title == "My notes"
    assert document.tags == ["work", "home", "tag"]
    assert [(block.level, block.title) for block in document.blocks if block.level] == [
        (1, "First"),
        (2, "Second"),
    ]
    body = " ".join(chunk.body for chunk in chunks(document))
    assert "ID" not in body
    assert "comment" not in body
    assert "text" in body


def test_restructured_text() -> None:
    document = read(
        "a.rst",
        b"=====\nTitle\n=====\n\nText.\n\nPart\n----\n\nMore.\n\nDeep\n~~~~\n\nEnd.\n\nOther\n-----\n\n"
        b"=====  ====\nA      B\n=====  ====\n",
    )
    assert document.title == "Title"
    assert [(block.level, block.title) for block in document.blocks if block.level] == [
        (1, "Title"),
        (2, "Part"),
        (3, "Deep"),
        (2, "Other"),
    ]


def test_code_is_cut_between_functions() -> None:
    document = read("a.py", b"def a():\n    return 1\n\n\ndef b():\n    return 2\n")
    assert blocks(document) == [("code", "def a():\n    return 1\n\n\n"), ("code", "def b():\n    return 2\n")]
    assert notes.stem_of("folder/tool.py") == "tool.py"
    assert notes.stem_of("folder/My note.v2.md") == "My note.v2"
    assert notes.stem_of("folder/.md") == ".md"


def test_pdf(pdf: Callable[[list[str]], bytes]) -> None:
    pytest.importorskip("pypdfium2")
    document = read("a.pdf", pdf(["Words of the first page.", "", "Words of the third page."]))
    assert [document.lines.number(block.start) for block in document.blocks] == [1, 3]
    assert "first page" in document.text
    with pytest.raises(UnreadableError, match="without text"):
        read("a.pdf", pdf([""]))
    with pytest.raises(UnreadableError, match="not a PDF"):
        read("a.pdf", b"%PDF-1.4 nonsense")


@pytest.fixture
def pdf() -> Callable[[list[str]], bytes]:
    """A PDF with a line of text on each page."""

    def make(pages: list[str]) -> bytes:
        kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
        objects = [
            "<< /Type /Catalog /Pages 2 0 R >>",
            f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        for n, text in enumerate(pages):
            stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
            objects.append(
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
                "/Resources << /Font << /F1 3 0 R >> >> >>"
            )
            objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        out = "%PDF-1.4\n"
        places = []
        for number, content in enumerate(objects, 1):
            places.append(len(out))
            out += f"{number} 0 obj\n{content}\nendobj\n"
        table = "".join(f"{place:010} 00000 n \n" for place in places)
        start = len(out)
        out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
        return out.encode()

    return make
