"""Every string is a query: what it means, and that SQLite never complains of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_jina import Index, InputError, Where
from mlx_jina.encoder import Encoder
from mlx_jina.search.filters import pattern
from mlx_jina.search.query import Query, parse

PIECES = [
    *"\"'-*^:()[]{}+~|&!?.,;<>=#@%$\\/_` \t\n\x00",
    *("AND", "OR", "NOT", "NEAR(a b, 2)", "title:", "tag:", "in:", "after:", "before:", "body:", "fts:", "-"),
    *("word", "words*", "don't", "1.0.21", "foo_bar", "C++", "state-of-the-art", "e.g.", "naïve", "NAÏVE"),
    *(
        "电脑",
        "机器学习",
        "日本語",
        "한국어",
        "สวัสดี",
        "हिन्दी",
        "👩\u200d👩\u200d👧",
        "👋🏽",
        "\ud800",
        "\udfff",
        "\ufeff",
    ),
    *("2026", "2026-13-45", "9999-12-31", "0000-01-01", "-5", "--flag", "''", '""', "\u202e", "a" * 300),
]
strings = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=25).map("".join)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, pocket: Encoder) -> Iterator[Index]:
    """A few notes in several scripts."""
    folder = tmp_path_factory.mktemp("notes")
    texts = {
        "bread.md": "---\ntags: [food/bread]\naliases: [Loaf]\n---\n# Sourdough\n\nFeed starters, don't forget.",
        "code.md": "---\nmodified: 2024-05-06\n---\nIt is 1.0.21 of foo_bar is state-of-the-art C++, ==marked==.",
        "中文.md": "我们在苹果电脑上运行模型。机器学习很有趣。",
        "thai.md": "สวัสดีครับ ผมชอบกินข้าว",
        "日記/korean.md": "한국어로 쓴 노트입니다.",
        "deep/folder/note.md": "#food Naïve words about nothing. \U0001f600",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with Index(tmp_path_factory.mktemp("index") / "index.db", pocket) as opened:
        opened.sync(folder)
        yield opened


def paths(index: Index, text: str, where: Where | None = None) -> list[str]:
    """Of the notes that words find."""
    return [hit.path for hit in index.search(text, mode="words", where=where)]


@given(text=strings, mode=st.sampled_from(["words", "hybrid"]), chunks=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_string_has_an_answer(index: Index, text: str, mode: str, chunks: bool) -> None:
    for hit in index.search(text, mode=mode, chunks=chunks):  # type: ignore[arg-type]
        hit.snippet.encode()
        assert 0 <= hit.score <= 1
        assert all(0 <= a < b <= len(hit.snippet) for a, b in hit.highlights)


@given(glob=st.text(max_size=20), path=st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_string_is_a_glob(glob: str, path: str) -> None:
    pattern([glob]).match(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.0.21", ["code.md"]),
        ("1.0.2", []),
        ("foo_bar", ["code.md"]),
        ("state-of-the-art", ["code.md"]),
        ('"state of the art"', ["code.md"]),
        ("marked", ["code.md"]),
        ("don't", ["bread.md"]),
        ("don\u2019t", ["bread.md"]),
        ("NAIVE", ["deep/folder/note.md"]),
        ("feeding starters", ["bread.md"]),
        ("电脑", ["中文.md"]),
        ("脑上", ["中文.md"]),
        ("习很", ["中文.md"]),
        ("学电", []),
        ("苹果手机", ["中文.md"]),
        ("ชอบกิน", ["thai.md"]),
        ("노트", ["日記/korean.md"]),
        ("loaf", ["bread.md"]),
        ("title:loaf", ["bread.md"]),
        ("title:sourdough starter", ["bread.md"]),
        ("title:feed", []),
        ("nothing -naive", []),
        ("naive -title:note", []),
        ("loaf -title:sourdough", []),
        ('loaf -title:"sourdough nothing"', ["bread.md"]),
        ("tag:food -tag:food/bread", ["deep/folder/note.md"]),
        ("tag:food -tag:#Food", []),
        ("tag:food -in:deep", ["bread.md"]),
        ('tag:food -in:"deep" -in:bread.md', []),
        ("tag:food in:deep in:bread.md", ["deep/folder/note.md", "bread.md"]),
        ("tag:food", ["deep/folder/note.md", "bread.md"]),
        ("tag:FOOD/bread", ["bread.md"]),
        ("tag:foo", []),
        ("in:deep", ["deep/folder/note.md"]),
        ("in:folder words", ["deep/folder/note.md"]),
        ("in:日記", ["日記/korean.md"]),
        ("before:2024-06", ["code.md"]),
        ("before:2024-05-06 marked", []),
        ("after:2024-05-06 before:2024-05-07 marked", ["code.md"]),
        ('"feed starter"', ["bread.md"]),
        ('"starter feed"', []),
        ('-"feed starter" starter', []),
    ],
)
def test_what_queries_mean(index: Index, text: str, found: list[str]) -> None:
    assert sorted(paths(index, text)) == sorted(found)


def test_single_characters_of_chinese_are_words(index: Index) -> None:
    assert paths(index, "我") == ["中文.md"]


def test_words_alone_find_nothing_in_a_phrase_of_signs(index: Index) -> None:
    assert paths(index, '"!!!"') == paths(index, "") != []


def test_highlights_are_the_words_that_match(index: Index) -> None:
    def marked(text: str) -> str:
        return index.search(text, mode="words")[0].marked("<", ">")

    assert marked("feeding the starter") == "<Feed> <starters>, don't forget."
    assert marked("1.0.21 c") == "It is <1.0.21> of foo_bar is state-of-the-art <C>++, marked."
    assert marked("naive") == "#food <Naïve> words about nothing."
    assert marked("电脑") == "我们在苹果<电脑>上运行模型。"
    assert marked("苹果电脑") == "我们在<苹果电脑>上运行模型。"


def test_filters_of_the_api_and_of_the_query_are_both_meant(index: Index) -> None:
    where = Where(tags="food", glob=["deep", "bread.md"], since=datetime.date(2025, 1, 1))
    assert sorted(paths(index, "", where)) == ["bread.md", "deep/folder/note.md"]
    assert paths(index, "in:deep", where) == ["deep/folder/note.md"]
    assert paths(index, "in:code.md", where) == []
    assert paths(index, "-naive", where) == ["bread.md"]
    assert paths(index, "", Where(until="2024")) == ["code.md"]
    assert paths(index, "", Where(until=datetime.datetime(2024, 5, 5))) == []
    assert paths(index, "", Where(title="sourdough")) == ["bread.md"]
    assert paths(index, "", Where(tags=["food", "nothing"])) == []
    with pytest.raises(InputError, match="no date"):
        index.search("x", where=Where(since="yesterday"))


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        (
            "projects",
            ["projects/a.md", "sub/projects/b/c.md", "Projects/a.md"],
            ["myprojects/a.md", "projects.md"],
        ),
        ("a.md", ["a.md", "sub/a.md"], ["ba.md", "a.md.txt"]),
        ("sub/a.md", ["sub/a.md"], ["x/sub/a.md"]),
        ("*.txt", ["a.txt", "sub/b.txt"], ["a.md"]),
        ("sub/*.md", ["sub/a.md"], ["sub/deep/a.md"]),
        ("sub/**", ["sub/a.md", "sub/deep/a.md"], ["a.md"]),
        ("**/deep/*.md", ["deep/a.md", "x/y/deep/a.md"], ["deep/x/a.md"]),
        ("note ?.md", ["note 1.md"], ["note 12.md", "note /.md"]),
        ("[draft]", ["[draft]/a.md"], ["d/a.md"]),
        ("./sub/", ["sub/a.md"], ["b.md"]),
        ("a_b%.md", ["a_b%.md"], ["axb%.md", "a_bc.md"]),
    ],
)
def test_globs(glob: str, matching: list[str], other: list[str]) -> None:
    matcher = pattern([glob])
    assert [path for path in [*matching, *other] if matcher.match(path)] == matching


def test_keys_count_only_with_something_right_behind_them() -> None:
    assert parse("tag: x in: y title:") == Query(
        text="tag: x in: y title:", terms=('"tag"', '"x"', '"in"', '"y"', '"title"')
    )
    assert parse("http://x.org note:5").terms == ('"http"', '"x.org"', '"note"', '"5"')
    assert parse("after:soon").terms == ('"after"', '"soon"')
    assert parse('tag:"two words"').tags == ("two words",)
    assert parse("a -b --c -5 - d").excluded == ('"b"',)
    assert parse("-tag: -after:2024").excluded == ('"tag:"', '"after:2024"')


def test_days_months_and_years() -> None:
    def bounds(text: str) -> tuple[str, ...]:
        query = parse(text)
        moments = [query.since, query.until]
        return tuple(str(datetime.datetime.fromtimestamp(moment)) for moment in moments if moment is not None)

    assert bounds("after:2026") == ("2026-01-01 00:00:00",)
    assert bounds("after:2026-11") == ("2026-11-01 00:00:00",)
    assert bounds("after:2026-11-26 before:2026-12-01") == ("2026-11-26 00:00:00", "2026-12-01 00:00:00")
    assert bounds("after:2025 after:2026-02") == ("2026-02-01 00:00:00",)
    assert parse("", Where(until="2026-12")).until == datetime.datetime(2027, 1, 1).timestamp()
    assert parse("", Where(until="2026")).until == datetime.datetime(2027, 1, 1).timestamp()
    assert parse("", Where(until=datetime.date(2026, 2, 28))).until == datetime.datetime(2026, 3, 1).timestamp()


def test_a_long_question_is_cut(index: Index) -> None:
    words = " ".join(f"word{n}" for n in range(5000))
    assert len(parse(words).terms) == 100
    assert paths(index, words) == []
    assert index.search("starter " * 20_000)


def test_names_of_folders_are_no_patterns_of_sql(tmp_path: Path, tiny: Encoder) -> None:
    folder = tmp_path / "notes"
    for name in ("100%", "100x", "a_b", "axb"):
        (folder / name).mkdir(parents=True)
        (folder / name / "note.md").write_text("words")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        assert paths(index, "words in:100%") == ["100%/note.md"]
        assert paths(index, "words in:a_b") == ["a_b/note.md"]


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("star", ['"star" *']),
        ("the sta", ['"the"', '"sta" *']),
        ("a", ['"a"']),
        ("star ", ['"star"']),
        ('"sour dough"', ['"sour dough"']),
        ('"sour dough" sta', ['"sour dough"', '"sta" *']),
        ("version 1.0", ['"version"', '"1.0"']),
        ("电脑", ['"电 脑"']),
    ],
)
def test_the_last_word_may_have_only_begun(typed: str, terms: list[str]) -> None:
    assert list(parse(typed, prefix=True).terms) == terms
    assert [term.removesuffix(" *") for term in terms] == list(parse(typed).terms)
