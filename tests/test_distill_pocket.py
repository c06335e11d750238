"""The recipe of `pocket`: the parts that need neither its packages nor its teacher."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from convert.pocket import captions, corpus, edits, evaluate, readers, sources
from convert.pocket.readers import Section

TEXT = "Where the snow lies until May, a red fox crosses the frozen river at night and hunts small birds."


def test_every_source_is_pinned_and_free() -> None:
    rows = sources.load()
    assert len({source.name for source in rows}) == len(rows) > 20
    for source in rows:
        assert len(source.sha256) == 64
        assert source.version
        assert source.registry in ("debian", "pypi", "npm")
        assert 0 < source.share <= 1
        assert source.licence.split(" ")[0] in (
            *("public", "PostgreSQL", "PSF-2.0", "BSD-3-Clause", "MIT", "Apache-2.0", "WordNet"),
            *("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Biopython"),
        )


def test_a_download_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source, *_) = sources.load()
    monkeypatch.setattr(sources, "load", lambda: [source])
    monkeypatch.setattr(sources, "_download", lambda _, folder: (folder / "a.deb").write_bytes(b"other"))
    with pytest.raises(ValueError, match="check the licence"):
        sources.fetch(tmp_path)
    assert not source.folder(tmp_path).exists()


HTML = """<html lang="en"><head><title>no</title></head><body><nav>Home</nav><h1>Foxes<a>¶</a></h1>
<p>A fox is <b>red</b>.</p><pre>code()</pre><ul><li>It runs.</li></ul><h2>Food</h2><p>Mice &amp; birds.</body>
</html>"""


def test_html() -> None:
    assert readers.sections_of_html(HTML) == [
        Section("", []),
        Section("Foxes", ["A fox is red.", "It runs."]),
        Section("Food", ["Mice & birds."]),
    ]


def test_other_languages_are_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(HTML.replace('"en"', '"pt-br"'))
    assert list(readers.of_html(page)) == []


@pytest.mark.parametrize(
    ("read", "text", "sections"),
    [
        (
            readers.of_wordnet,
            '  a licence\n02 03 n 02 fox 0 red_fox 0 001 @ 01 n 0000 | a small animal; "a fox ran"; "two foxes"\n',
            [Section("fox, red fox", ["a small animal", "a fox ran", "two foxes"])],
        ),
        (
            readers.of_obo,
            'x\n[Term]\nname: growth\ndef: "A \\"process\\" of cells." [X]\n\n[Term]\nname: old\ndef: "x"\n'
            'is_obsolete: true\n\n[Term]\nname: cell\ndef: "A unit." [Wikipedia:Cell]\n',
            [Section("growth", ['A "process" of cells.'])],
        ),
        (
            readers.of_speech,
            "Fellow citizens:\n\nWe are well.\n\nTRADE\n\nIt grows.",
            [
                Section("State of the Union 1801, Jefferson", ["Fellow citizens:", "We are well."]),
                Section("Trade (State of the Union 1801, Jefferson)", ["It grows."]),
            ],
        ),
        (
            readers.of_factbook,
            json.dumps(
                {
                    "Geography": {"Climate": {"text": "cold ++ wet"}, "Land use": {"forest": {"text": "4%"}}},
                    "Government": {"Country name": {"conventional short form": {"text": "Freedonia"}}},
                }
            ),
            [
                Section("Freedonia: Climate", ["cold; wet"]),
                Section("Freedonia: Land use", ["forest: 4%"]),
                Section("Freedonia: Country name", ["conventional short form: Freedonia"]),
            ],
        ),
        (
            readers.of_dialogue,
            "conversations:\n- - who is it\n  - a fox,\n    red\n",
            [Section("who is it", ["a fox, red"])],
        ),
        (readers.of_dict, "fox\n n. [ME]\n\n    A red {animal}.\n", [Section("fox", ["A red animal."])]),
        (
            readers.of_book,
            "By A. Smith\n\nCHAPTER 1. Foxes.\n\nA _red_\nfox.\n\nThe End.\n\nOF LIGHT\n\nRays.\n",
            [
                Section("", ["By A. Smith"]),
                Section("CHAPTER 1. Foxes.", ["A red fox.", "The End."]),
                Section("Of light", ["Rays."]),
            ],
        ),
        (
            readers.of_devil,
            "  A\n\nFOX, n.  An animal,\n  red.\n\n  It runs.\n\nTO ABATE, v.t. To end.\n",
            [
                Section("", ["A"]),
                Section("Fox", ["An animal, red.", "It runs."]),
                Section("To abate", ["To end."]),
            ],
        ),
        (
            readers.of_docstrings,
            f'''
class RedFox:
    """{TEXT} See :class:`~foxes.Fox`.

    Parameters
    ----------
    name : str
        How {TEXT}

    Notes
    -----
    It sleeps by day in a ``den`` [1]_, and hunts from dusk to dawn.

    The speed is :math:`v`, and more of it is said elsewhere.
    """

    def _hunt(self):
        """{TEXT} {TEXT}"""

    def run(self):
        """Run a little, but not far from here."""
''',
            [
                Section(
                    "Red Fox",
                    [f"{TEXT} See foxes.Fox.", "It sleeps by day in a den, and hunts from dusk to dawn."],
                )
            ],
        ),
    ],
)
def test_readers(tmp_path: Path, read: object, text: str, sections: list[Section]) -> None:
    file = tmp_path / "1801-Jefferson-1.txt.gz"
    file.write_bytes(gzip.compress(text.encode()))
    assert callable(read)
    assert list(read(file)) == sections


ARTICLE = """<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:x="http://www.w3.org/1999/xlink"><front>
<title-group><article-title>On <italic>foxes</italic></article-title></title-group>
<permissions><license><license-p>LICENCE</license-p></license></permissions>
<abstract><sec><title>Background</title><p>They run.</p></sec></abstract></front>
<body><sec><title>Methods and Findings</title>
<p>We looked [<xref ref-type="bibr">1</xref>,<xref ref-type="bibr">2</xref>] at
<xref ref-type="fig">Figure 1</xref>.
<fig><p>no</p></fig></p><sec><title>Dens</title><p>Deep.</p></sec></sec></body>
</article>"""


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("under the terms of the Creative Commons Attribution License", True),
        ('under the <ext-link x:href="http://creativecommons.org/licenses/by/4.0/">licence</ext-link>', True),
        ("made available under the Creative Commons CC0 public domain dedication", True),
        ('under the <ext-link x:href="http://creativecommons.org/licenses/by-sa/4.0/">licence</ext-link>', False),
        ("Creative Commons Attribution Non-Commercial License", False),
        ("not for the promotion of commercial products", False),
    ],
)
def test_only_free_articles(tmp_path: Path, licence: str, free: bool) -> None:
    (tmp_path / "article.xml").write_text(ARTICLE.replace("LICENCE", licence))
    sections = [section for section in readers.of_article(tmp_path / "article.xml") if section.paragraphs]
    expected = [("On foxes", "They run."), ("On foxes", "We looked at Figure 1."), ("Dens", "Deep.")]
    assert sections == ([Section(title, [text]) for title, text in expected] if free else [])


def test_a_commentary(tmp_path: Path) -> None:
    blocks = [
        zlib.compress(f'<div sID="1" type="x-p"/> Verse {i} is <hi>old</hi>. <div/>'.encode()) for i in (1, 2)
    ]
    places = [(0, len(blocks[0]), 9), (len(blocks[0]), len(blocks[1]), 9)]
    (tmp_path / "ot.bzz").write_bytes(b"".join(blocks))
    (tmp_path / "ot.bzs").write_bytes(b"".join(struct.pack("<III", *place) for place in places))
    expected = [Section("", [f"Verse {i} is old."]) for i in (1, 2)]
    assert list(readers.of_commentary(tmp_path / "ot.bzz")) == expected


def test_docstrings_of_tests_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_foxes.py").write_text(f'"""{TEXT} {TEXT}"""')
    assert list(readers.of_docstrings(tmp_path / "test_foxes.py")) == []


def test_novels_of_an_r_package(tmp_path: Path) -> None:
    lines = ["EMMA", "", "", "", "CHAPTER I", "", "", "Emma _Woodhouse_,", "handsome", "", "She was."]
    strings = b"".join(b"\0\4\0\t" + len(line).to_bytes(4, "big") + line.encode() for line in lines)
    block = zlib.compress(b"X\n\0\0" + strings)
    (tmp_path / "data.rdb").write_bytes(2 * (len(block).to_bytes(4, "big") + block))
    chapter = Section("Emma, chapter i", ["Emma Woodhouse, handsome", "She was."])
    assert list(readers.of_rdata(tmp_path / "data.rdb")) == 2 * [Section("Emma", []), chapter]


def test_passages_lose_nothing() -> None:
    paragraphs = [" ".join(f"w{i}-{j}" for j in range(10)) for i in range(100)]
    made = list(corpus.passages(paragraphs, random.Random(1)))
    assert " ".join(made) == " ".join(paragraphs)
    assert max(len(passage.split()) for passage in made) < 2 * max(corpus.PASSAGE_WORDS)


def test_a_family_has_a_passage_and_its_queries() -> None:
    made = [corpus.family("Foxes", f"{TEXT} It sleeps by day in a den.", {}, random.Random(i)) for i in range(20)]
    assert all(TEXT in passage and "Foxes" in query for passage, query, *_ in made)
    assert all(len(family) > 2 for family in made)
    assert corpus.family("Navigation", "a b", {}, random.Random(1)) == ["a b"]


@pytest.fixture(scope="module")
def overlap(tmp_path_factory: pytest.TempPathFactory) -> corpus.Overlap:
    folder = tmp_path_factory.mktemp("foxes")
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "1", "title": "", "text": TEXT}) + "\n")
    (folder / "pairs.csv").write_text("A dog barks.,A cat sleeps.,1.0\n")
    return corpus.Overlap([folder / "corpus.jsonl", folder / "pairs.csv"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("they say A RED fox crosses the frozen river, at times", "corpus"),
        ("a red fox crosses the frozen lake", None),
        ("a cat sleeps", "pairs"),
        ("a cat sleeps here", None),
    ],
)
def test_test_collections_stay_out(overlap: corpus.Overlap, text: str, found: str | None) -> None:
    name = overlap.of(text)
    assert name is None if found is None else found in (name or "")


def test_the_corpus_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [source for source in sources.load() if source.name == "wordnet-base"]
    monkeypatch.setattr(sources, "load", lambda: [source])
    monkeypatch.setattr(
        sources.Source, "sections", lambda *_: iter([Section("fox, dog", [TEXT]), Section("x", [TEXT])])
    )
    (tmp_path / "sts.csv").write_text("a man is cutting an onion,x,1\n")
    counts = corpus.collect(tmp_path, ["river"], [tmp_path / "sts.csv"], 50, 1)
    before = (tmp_path / "corpus.jsonl").read_text()
    assert 1 <= counts["wordnet-base"]["families"] <= corpus.CUTS
    assert counts["captions"]["texts"] > 90
    assert corpus.collect(tmp_path, ["river"], [tmp_path / "sts.csv"], 50, 1) == counts
    assert (tmp_path / "corpus.jsonl").read_text() == before
    assert corpus.read(tmp_path)[0][0].endswith(TEXT)


def test_edits_change_a_text() -> None:
    rng = random.Random(1)
    assert all(edits.edit(TEXT, {"snow": ["ice"]}, rng) != TEXT for _ in range(50))
    assert edits.replace_word(TEXT, {"snow": ["ice"]}, rng) == TEXT.replace("snow", "ice")
    assert edits.negate("It is red.", {}, rng) == "It is not red."


def test_captions_are_sentences() -> None:
    made = list(captions.families(300, random.Random(1)))
    assert all(len(family) >= 3 and len(set(family)) > 1 for family in made)
    assert not [text for family in made for text in family if "  " in text or "{" in text]


def test_retrieval_is_ndcg(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "", "text": "zero"}, {"_id": "b", "title": "one", "text": "two"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "query"}) + "\n")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\n")
    table = {"zero": [1.0, 0.0, 0.0], "one. two": [0.0, 1.0, 1.0], "query": [1.0, 0.1, 5.0]}
    scores = evaluate.retrieval(tmp_path, lambda texts: np.array([table[t] for t in texts]), [3, 2])
    assert scores == {3: 1.0, 2: pytest.approx(1 / np.log2(3))}


def test_nearness_to_the_teacher_by_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{n}" for n in range(25)]
    rows = [{"_id": str(n), "title": "", "text": " ".join(words[n : n + 5])} for n in range(0, 25, 5)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "queries.jsonl").write_text("")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n")
    monkeypatch.setattr(evaluate, "LENGTHS", (4, 8))
    seen: list[str] = []

    def encode(texts: list[str]) -> evaluate.Array:
        seen.extend(texts)
        return np.array([[float(word in text.split()) for word in words] for text in texts])

    tokenizer = Tokenizer(WordLevel({"word0": 0}, unk_token="word0"))
    tokenizer.pre_tokenizer = Whitespace()
    turned = evaluate.by_length(tmp_path, tokenizer, encode, lambda texts: encode(texts)[::-1])
    assert seen[:3] == ["word0 word1 word2 word3", "word8 word9 word10 word11", "word16 word17 word18 word19"]
    assert [len(text.split()) for text in seen] == [4] * 6 + [8] * 6
    assert turned[8] == {"cosine": 0.333, "nearest": 1, "texts": 3}
    right = {"cosine": 1.0, "nearest": 3, "texts": 3}
    assert evaluate.by_length(tmp_path, tokenizer, encode, encode) == {4: right, 8: right}
