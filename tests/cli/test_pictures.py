"""`mlx-jina encode` with pictures: files and folders, mixed with notes, resumed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

import mlx_jina
from mlx_jina.cli import app
from mlx_jina.errors import MlxJinaError
from mlx_jina.vision import pdf
from tests.support import v4_checkpoints
from tests.support.tolerance import bound
from tests.support.v4_checkpoints import pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("v4") / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures and a note."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.PNG", "sub/d.webp")):
        PIL.Image.fromarray(pixels(60 + 30 * number, 90, number)).save(folder / name)
    (folder / "b.md").write_text("a note", encoding="utf-8")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.commands, ["encode", *map(str, arguments)])


def words(done: Result) -> str:
    """What a user reads on standard error; `main` prints the error."""
    assert isinstance(done.exception, MlxJinaError)
    return str(done.exception)


def rows(done: Result) -> dict[str, list[float]]:
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == [*range(len(lines))]
    return {Path(line["file"]).name: line["embedding"] for line in lines}


def test_a_folder(photos: Path, model: Path) -> None:
    found = rows(run("-i", photos, "-m", model, "--task", "retrieval"))
    assert [*found] == ["a.png", "b.jpg", "b.md", "c.PNG", "d.webp"]
    loaded = mlx_jina.load(model, task="retrieval")
    paths = [photos / "a.png", photos / "b.jpg", photos / "c.PNG", photos / "sub/d.webp"]
    wanted = dict(zip(("a.png", "b.jpg", "c.PNG", "d.webp"), loaded.encode_images(paths), strict=True))
    wanted["b.md"] = loaded.encode("a note")
    for name, row in found.items():
        np.testing.assert_allclose(row, wanted[name], atol=bound(1e-6), rtol=0)


def test_the_pictures_of_notes_are_no_input_of_text_models(photos: Path) -> None:
    assert [*rows(run("-i", photos, "-m", "pocket"))] == ["b.md"]
    refused = run("-i", photos / "a.png", "-m", "pocket")
    assert refused.exit_code == 1
    assert "is a picture, and this model sees none here; v4 does" in words(refused)


def test_what_cannot_be_read_is_named(photos: Path, model: Path) -> None:
    (photos / "bad.png").write_bytes(b"nothing")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:900])
    done = run("-i", photos, "-m", model, "--task", "code")
    assert len(rows(done)) == 5
    assert "skipped (2)" in done.stderr
    assert "cut.png: cannot be read as a picture" in done.stderr
    stopped = run("-i", photos, "-m", model, "--task", "code", "--on-error", "stop")
    assert stopped.exit_code == 1
    assert "bad.png: picture 3 is no picture" in words(stopped)


def test_an_output_is_resumed_by_the_files_bytes(photos: Path, model: Path, tmp_path: Path) -> None:
    arguments = ("-i", photos, "-m", model, "--task", "code", "-o", tmp_path / "out.npy")
    assert run(*arguments).exit_code == 0
    before = np.load(tmp_path / "out.npy")
    assert before.shape == (5, 64)
    PIL.Image.fromarray(pixels(60, 60, 9)).save(photos / "sub" / "e.png")
    assert run(*arguments, "--resume").exit_code == 0
    after = np.load(tmp_path / "out.npy")
    assert after.shape == (6, 64)
    assert np.array_equal(after[:5], before)
    (photos / "a.png").write_bytes((photos / "sub" / "e.png").read_bytes())
    changed = run(*arguments, "--resume")
    assert "the first 6 texts are not those" in words(changed)


def test_fewer_pixels(photos: Path, model: Path, tmp_path: Path) -> None:
    arguments = ("-i", photos / "c.PNG", "-m", model, "--task", "code")
    loaded = mlx_jina.load(model, task="code")
    wanted = loaded.encode_images(photos / "c.PNG", max_pixels=4000)
    (found,) = rows(run(*arguments, "--max-pixels", 4000)).values()
    np.testing.assert_allclose(found, wanted, atol=bound(1e-6), rtol=0)
    mixed = loaded.encode([mlx_jina.Image(photos / "c.PNG"), "a text"], max_pixels=4000)  # type: ignore[list-item]
    np.testing.assert_allclose(mixed[0], wanted, atol=bound(1e-6), rtol=0)
    assert np.abs(wanted - loaded.encode_images(photos / "c.PNG")).max() > 1e-3
    # It changes vectors, so a job does not go on with another one.
    output = ("-o", tmp_path / "out.npy")
    assert run(*arguments, *output).exit_code == 0
    assert "max_pixels" in words(run(*arguments, *output, "--resume", "--max-pixels", 4000))
    assert "max_pixels=100 must be at least" in words(run(*arguments, "--max-pixels", 100))
    assert "is for models that see pictures" in words(run("a text", "-m", "pocket", "--max-pixels", 4000))


def test_chunks_are_of_texts(photos: Path, model: Path) -> None:
    arguments = ("-m", model, "--task", "code", "--chunk", "fixed")
    assert [*rows(run("-i", photos, *arguments))] == ["b.md"]
    assert "--chunk takes texts only" in words(run("-i", photos / "a.png", *arguments))


def test_pictures_are_no_documents_to_rerank(photos: Path) -> None:
    arguments = ["rerank", "jina-reranker-v1-tiny-en", "a question", "-i", str(photos / "a.png")]
    done = CliRunner().invoke(app.commands, arguments)
    assert "a.png is none of the inputs that can be read" in words(done)


def test_info(model: Path, photos: Path) -> None:
    for place, said in ((str(model), "up to 131,712 pixels"), ("pocket", "")):
        done = CliRunner().invoke(app.commands, ["info", place])
        found = [line for line in done.stdout.splitlines() if line.startswith("pictures")]
        assert len(found) == bool(said)
        assert all(said in line for line in found)


def test_a_pdf_has_a_row_for_each_page(model: Path, tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(pixels(120, 90, seed)) for seed in (1, 2)]
    pages[0].save(tmp_path / "report.pdf", save_all=True, append_images=pages[1:])
    arguments = ("-m", model, "--task", "retrieval", "-i", tmp_path / "report.pdf")
    found = rows(run(*arguments))
    assert [*found] == ["report.pdf#page=1", "report.pdf#page=2"]
    drawn = [*pdf.pages(tmp_path / "report.pdf")]
    # A point is a pixel in this file, and is drawn at 150 dots an inch.
    assert drawn[0].shape == (251, 188, 3)
    wanted = mlx_jina.load(model, task="retrieval").encode_images(drawn)
    np.testing.assert_allclose([*found.values()], wanted, atol=bound(1e-6), rtol=0)
    assert "sees none here" in words(run("-m", "pocket", "-i", tmp_path / "report.pdf"))
    # In a folder its pages stand between the notes; a text model passes over them.
    (tmp_path / "a.md").write_text("a note", encoding="utf-8")
    (tmp_path / "zero.pdf").write_bytes(b"%PDF-1.7 nothing")
    done = run(*arguments[:-1], tmp_path)
    assert [*rows(done)] == ["a.md", "report.pdf#page=1", "report.pdf#page=2"]
    assert "zero.pdf is not a PDF" in done.stderr or "zero.pdf: is not a PDF" in done.stderr
    assert [*rows(run("-m", "pocket", "-i", tmp_path))] == ["a.md"]
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7 nothing")
    assert "is not a PDF that can be read" in words(run(*arguments))
