"""Pictures in an index: found by themselves, by their names and by what notes say of them, and kept in step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import mlx_jina
from mlx_jina import Index, InputError
from mlx_jina.encoder import Encoder
from mlx_jina.mcp import tools
from mlx_jina.search import embedding, meaning
from mlx_jina.search.meaning import ExactVectors, SignVectors
from mlx_jina.search.model import Model
from mlx_jina.search.schema import NOTE_BITS
from tests.support import omni_checkpoints, v4_checkpoints
from tests.support.notes import age, assert_as_new, make_first_version
from tests.support.v4_checkpoints import pixels

BREAD = """# Bread

![The crumb of a loaf|300](img/crumb.png "after a night") and ![](img/rise%20time.jpg)

![[plot.webp|200]] ![[deep/plot.webp|Dough against hours]] ![web](https://example.com/crumb.png)
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("v4") / "model")


@pytest.fixture(scope="module")
def v4(model_folder: Path) -> Encoder:
    """A model that sees, and whose vectors mean nothing."""
    return mlx_jina.load(model_folder, task="retrieval")


def save(path: Path, seed: int, height: int = 60, width: int = 84) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels(height, width, seed)).save(path)
    return path


def vault(folder: Path) -> Path:
    """Notes that show pictures, a picture that no note shows, and what cannot be read."""
    for seed, name in enumerate(
        ("img/crumb.png", "img/rise time.jpg", "plots/plot.webp", "plots/deep/plot.webp", "lonely.gif")
    ):
        save(folder / name, seed)
    (folder / "bread.md").write_text(BREAD)
    (folder / "sub").mkdir()
    (folder / "sub" / "page.html").write_text('<p>A page</p><img src="../img/crumb.png" alt="Seen from above">')
    (folder / "text.md").write_text("# Engine\n\nOil for the engine.\n")
    (folder / "bad.png").write_bytes(b"nothing")
    save(folder / "cut.png", 7).write_bytes((folder / "cut.png").read_bytes()[:900])
    age(folder)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, v4: Encoder) -> Iterator[Index]:
    place = tmp_path_factory.mktemp("vault")
    with Index(place / "index.db", v4) as opened:
        report = opened.sync(vault(place / "notes"))
        assert len(report.added) == 9
        assert (report.vectors, report.without_vectors) == (8, 0)
        assert dict(report.skipped).keys() == {"bad.png", "cut.png"}
        assert "is no picture" in dict(report.skipped)["bad.png"]
        assert "cannot be read as a picture" in dict(report.skipped)["cut.png"]
        yield opened


def paths(index: Index, query: str, **options: object) -> list[str]:
    return [hit.path for hit in index.search(query, **options)]  # type: ignore[arg-type]


def test_faults_are_said_once(index: Index) -> None:
    again = index.sync()
    assert (again.skipped, again.unchanged, again.unread, again.vectors) == ([], 8, 2, 0)
    assert [path for path, _ in index.status().errors] == ["bad.png", "cut.png"]
    assert index.status().pictures == 5
    assert index.check() == []


def test_words_are_of_names_and_of_notes(index: Index) -> None:
    assert paths(index, "crumb", mode="words") == ["img/crumb.png", "bread.md"]
    (hit,) = index.search("night", mode="words", where=mlx_jina.Where(glob="*.png"))
    assert (hit.picture, hit.shown_in) == (True, ("bread.md", "sub/page.html"))
    assert hit.text == "The crumb of a loaf after a night\nSeen from above"
    assert paths(index, "lonely.gif")[0] == "lonely.gif"
    assert "img/rise time.jpg" in paths(index, "rise", mode="words")
    # As in Obsidian, a path may lack its first folders; a width is no caption.
    deep = index.search("dough hours", mode="words", where=mlx_jina.Where(glob="plots"))
    assert [(each.path, each.text) for each in deep] == [("plots/deep/plot.webp", "Dough against hours")]
    (shallow,) = index.search("plot.webp", mode="words", where=mlx_jina.Where(glob="plots/plot.webp"))
    assert (shallow.shown_in, shallow.text) == (("bread.md",), "")
    assert not any(hit.picture for hit in index.search("engine", mode="words"))


def test_pictures_lie_in_the_space_of_texts(index: Index, v4: Encoder) -> None:
    found = {hit.path: hit.cosine or 0.0 for hit in index.search("a question", mode="meaning")}
    assert len(found) == 8
    folder = Path(index.status().folders[0])
    names = [name for name in found if not name.endswith((".md", ".html"))]
    wanted = v4.similarity(v4.encode_images([folder / name for name in names]), v4.encode_query(["a question"]))
    np.testing.assert_allclose([found[name] for name in names], wanted[:, 0], atol=2e-3)
    rows = {row.path: row.vector for row in index.rows()}
    crumb = rows["img/crumb.png"]
    assert crumb is not None
    np.testing.assert_allclose(crumb, v4.encode_images(folder / "img/crumb.png"), atol=1e-3)
    assert index.related("img/crumb.png", limit=1)[0].path in rows
    assert len(index.map()) == 8


def test_reading_and_thumbnails(index: Index) -> None:
    note = index.read("img/crumb.png")
    assert (note.picture, note.text) == (True, "The crumb of a loaf after a night\nSeen from above")
    assert index.read("bread.md").picture is False
    (hit,) = index.search("night", mode="words", where=mlx_jina.Where(glob="*.png"))
    data = index.thumbnail(hit.id, size=32)
    assert data.startswith(b"\xff\xd8\xff")
    (text, *_) = index.search("engine", mode="words")
    for wrong in (text.id, 1 << 62, 1 << 70, -1):
        with pytest.raises(InputError, match="is no picture in this index"):
            index.thumbnail(wrong)
    with pytest.raises(InputError, match="size=0 must be at least 1"):
        index.thumbnail(hit.id, size=0)


def test_changes_moves_and_deletions(tmp_path: Path, v4: Encoder) -> None:
    folder, file = vault(tmp_path / "notes"), tmp_path / "index.db"
    with Index(file, v4) as index:
        index.sync(folder)
        # Another caption needs no other vector.
        (folder / "bread.md").write_text(BREAD.replace("crumb of a loaf", "inside of a bun"))
        report = index.sync()
        assert (report.changed, report.vectors) == (["bread.md"], 1)
        assert sorted(paths(index, "bun", mode="words")) == ["bread.md", "img/crumb.png"]
        assert "img/crumb.png" not in paths(index, "loaf", mode="words")
        # A note goes, and its words with it; a picture moves with its vector; another one has new pixels.
        (folder / "bread.md").unlink()
        (folder / "lonely.gif").rename(folder / "img" / "lonely.gif")
        save(folder / "img" / "crumb.png", 9)
        (folder / "plots" / "plot.webp").unlink()
        report = index.sync()
        assert report.moved == [("lonely.gif", "img/lonely.gif")]
        assert (report.changed, report.vectors) == (["img/crumb.png"], 1)
        assert sorted(report.removed) == ["bread.md", "plots/plot.webp"]
        assert paths(index, "bun", mode="words") == []
        (hit,) = index.search("above", mode="words")
        assert (hit.path, hit.shown_in) == ("img/crumb.png", ("sub/page.html",))
        # What has changed since the index read it is shown to nobody.
        save(folder / "img" / "crumb.png", 10, 61)
        with pytest.raises(InputError, match="not what it was"):
            index.thumbnail(hit.id)
        index.sync()
        # What cannot be decoded is tried again when it is another file.
        save(folder / "cut.png", 11)
        assert index.sync().vectors == 1
        assert [path for path, _ in index.status().errors] == ["bad.png"]
    assert_as_new(file, folder, v4, tmp_path / "fresh")


def test_models_without_eyes_and_rebuilds(tmp_path: Path, v4: Encoder, tiny: Encoder) -> None:
    folder, file = vault(tmp_path / "notes"), tmp_path / "index.db"
    with Index(file, tiny) as index:
        report = index.sync(folder)
        assert len(report.added) == 3
        assert report.skipped == []
        assert index.status().pictures == 0
    with Index(file, v4) as index:
        # A rebuild is what changes the model; until then pictures are none of the index's.
        assert index.sync(vectors=False).added == []
        report = index.rebuild()
        assert dict(report.skipped).keys() == {"bad.png", "cut.png"}
        assert (index.status().pictures, index.status().waiting) == (5, 0)
        assert index.sync().any_changes() is False
    assert_as_new(file, folder, v4, tmp_path / "fresh")
    with Index(file, tiny) as index:
        # Whoever searches with another model takes nothing away.
        index.sync(vectors=False)
        assert index.status().pictures == 5
        index.rebuild()
        assert index.status().pictures == 0
        index.sync()
        assert index.check() == []
    assert_as_new(file, folder, tiny, tmp_path / "fresh")


def test_whatever_moves_alone(tmp_path: Path, v4: Encoder) -> None:
    """What notes mean by a path changes where no file but one does, and that one not in what it holds."""
    folder, file = vault(tmp_path / "notes"), tmp_path / "index.db"
    with Index(file, v4) as index:
        index.sync(folder)

        for source, target, word, found in (
            ("img/crumb.png", "crumb.png", "night", []),
            ("crumb.png", "img/crumb.png", "night", ["img/crumb.png"]),
            ("sub/page.html", "page.html", "above", []),
            ("page.html", "sub/page.html", "above", ["img/crumb.png"]),
        ):
            (folder / source).rename(folder / target)
            assert index.sync().moved == [(source, target)]
            assert paths(index, word, mode="words", where=mlx_jina.Where(glob="*.png")) == found
    assert_as_new(file, folder, v4, tmp_path / "fresh")


def test_an_index_from_before_there_were_pictures(tmp_path: Path, v4: Encoder, tiny: Encoder) -> None:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "bread.md").write_text(BREAD)
    age(folder)
    for name, model in (("blind.db", tiny), ("seeing.db", v4)):
        with Index(tmp_path / name, model) as index:
            index.sync(folder)
        make_first_version(tmp_path / name)
    (folder / "sub").rmdir()
    vault(folder)
    with Index(tmp_path / "blind.db", tiny) as index:
        assert not index.sync().skipped
    with Index(tmp_path / "blind.db", v4) as index:
        index.rebuild()
    with Index(tmp_path / "seeing.db", v4) as index:
        index.sync()
    for name in ("blind.db", "seeing.db"):
        assert_as_new(tmp_path / name, folder, v4, tmp_path / "fresh")


def test_names_are_spelled_in_two_ways(tmp_path: Path, v4: Encoder) -> None:
    """MacOS hands out names with accents apart, which editors paste."""
    folder = tmp_path / "notes"
    save(folder / "café.png", 1)
    (folder / "a.md").write_text(f"![[{normalize('NFD', 'café.png')}|Terrace]]\n")
    save(folder / normalize("NFD", "naïve.png"), 2)
    (folder / "b.md").write_text("![Painting](na%C3%AFve.png)\n")
    with Index(tmp_path / "index.db", v4) as index:
        index.sync(folder)
        for word, path, note in (("terrace", "café.png", "a.md"), ("painting", "naïve.png", "b.md")):
            found = [(hit.path, hit.shown_in) for hit in index.search(word, mode="words") if hit.picture]
            assert found == [(path, (note,))]


def test_a_logo_names_some_of_its_notes(tmp_path: Path, v4: Encoder) -> None:
    folder = tmp_path / "notes"
    save(folder / "logo.png", 1)
    for number in range(8):
        (folder / f"{number}.md").write_text(f"![Our logo](logo.png)\n\nNote {number}\n")
    age(folder)
    with Index(tmp_path / "index.db", v4) as index:
        index.sync(folder)
        text, _ = tools.tool("get_note").run(tools.Notes(index), {"path": "logo.png"})
        assert len(index.read("logo.png").shown_in) == 8
    assert "A picture, shown in 0.md, 1.md, 2.md, 3.md, 4.md and 3 more, modified" in text


def test_scanned_pages(tmp_path: Path, v4: Encoder, tiny: Encoder) -> None:
    folder, file = tmp_path / "notes", tmp_path / "index.db"
    folder.mkdir()
    scans = [PIL.Image.fromarray(pixels(120, 90, seed)) for seed in (1, 2)]
    scans[0].save(folder / "scan.pdf", save_all=True, append_images=scans[1:])
    with Index(tmp_path / "blind.db", tiny) as index:
        assert "without text" in dict(index.sync(folder).skipped)["scan.pdf"]
    with Index(file, v4) as index:
        assert index.sync(folder).skipped == []
        hits = index.search("a question", mode="meaning", chunks=True)
        assert sorted((hit.path, hit.line, hit.picture) for hit in hits) == [
            ("scan.pdf", 1, True),
            ("scan.pdf", 2, True),
        ]
        assert index.thumbnail(hits[0].id, size=64).startswith(b"\xff\xd8\xff")
        assert index.read("scan.pdf").lines == 2
        assert index.check() == []


def test_what_sees_is_known_before_it_is_loaded(model_folder: Path, tmp_path: Path, v4: Encoder) -> None:
    for name, sees in (("v4", True), ("v5-omni-nano", True), ("pocket", False), ("v5-small", False)):
        assert Model(name).sees is sees
    omni = omni_checkpoints.omni(tmp_path / "omni", "nano")
    assert Model(omni).sees
    assert Model(model_folder).sees
    assert Model(v4).sees
    (tmp_path / "config.json").write_text("[")
    assert not Model(tmp_path).sees


@pytest.mark.parametrize("exact", [True, False])
def test_pictures_and_texts_are_compared_from_means_of_their_own(exact: bool) -> None:
    """All pictures have a smaller cosine than any text; still the best one is as far above the others."""
    rng = np.random.default_rng(3)
    dimension, texts, seen = 64, 60, 40

    def unit(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
        return found

    query = unit(rng.normal(size=(1, dimension)))[0].astype(np.float32)
    near = unit(rng.normal(size=(texts, dimension)) * 0.5 + 6 * query)
    far = unit(rng.normal(size=(seen, dimension)) * 0.5 - 6 * query)
    far[7] = unit(far[7:8].astype(np.float32) + 0.5 * query)[0]
    data = [(n + 1, row.tobytes()) for n, row in enumerate([*near, *far])]
    connection = sqlite3.connect(":memory:")
    connection.execute("create table vec(note integer primary key, v blob)")
    connection.executemany("insert into vec values (?, ?)", data)

    def made() -> meaning.Vectors:
        if exact:
            return ExactVectors(dimension, data)
        return SignVectors(dimension, [(note, embedding.signs(v, dimension)) for note, v in data])

    flat, vectors = made().rank(connection, query, None, (), 10), made()
    vectors.pictures = vectors.rows([note << NOTE_BITS for note in range(texts + 1, texts + seen + 1)])
    found = vectors.rank(connection, query, None, (), 10)
    assert flat is not None
    assert found is not None
    best = (texts + 8) << NOTE_BITS
    assert next(iter(flat.scores)) >> NOTE_BITS <= texts
    assert next(iter(found.scores)) == best
    assert found.scores[best] == pytest.approx(float(far[7].astype(np.float32) @ query), abs=1e-3)
    assert found.best == pytest.approx(found.scores[best] + found.lifts[best])
    assert found.mean == pytest.approx(float((near.astype(np.float32) @ query).mean()), abs=1e-3)
    # By themselves, pictures are compared as they are.
    alone = vectors.rank(connection, query, range(texts + 1, texts + seen + 1), (), 10)
    assert alone is not None
    assert alone.lifts == {}
    assert next(iter(alone.scores)) == best
