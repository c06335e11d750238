"""Several processes and threads at one index: nobody waits for ever, and nobody sees half a note."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_jina import Index, InputError
from mlx_jina.encoder import Encoder
from mlx_jina.errors import IndexFileError
from mlx_jina.search.lock import Busy, writer
from tests.search.test_edits import Folder
from tests.support.notes import assert_as_new, text

# Syncs again and again while it is told to.
SYNC = """
import sys
import mlx_jina
from mlx_jina.search import embedding, updating
updating._BATCH_NOTES = 3
embedding._FIRST_WINDOW = embedding._LARGEST_WINDOW = 300
file, folder, model, times = sys.argv[1:]
with mlx_jina.Index(file, mlx_jina.load(model)) as index:
    for _ in range(int(times)):
        index.sync(folder, allow_mass_delete=True)
"""
# Searches again and again, and looks at what it finds: the parts of a note belong together.
SEARCH = """
import sys
import mlx_jina
file, model, times = sys.argv[1:]
with mlx_jina.Index(file, mlx_jina.load(model)) as index:
    for n in range(int(times)):
        for mode in ("hybrid", "words"):
            for hit in index.search("oven concert -zebra", mode=mode, limit=30):
                assert hit.span[1] - hit.span[0] == len(hit.text), hit
                assert hit.title
        with index._database.reading() as connection:
            rows = connection.execute(
                "select note.id, vectors_at is not null, (select count(*) from chunk where chunk.note = note.id), "
                "length(v), (select count(*) from fts_docsize where id >> 20 = note.id) "
                "from note left join vec on vec.note = note.id where error is null"
            ).fetchall()
        for _, made, chunks, size, words in rows:
            assert chunks == words > 0, rows
            assert (size == 128 * chunks) if made else size is None, rows
print("done")
"""


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_two_syncs_and_four_searchers(
    rounds: int, folder: Path, tmp_path: Path, tiny: Encoder, tiny_folder: Path
) -> None:
    notes = Folder(folder, random.Random(rounds))
    for _ in range(40):
        notes.step()
    file = tmp_path / "index.db"
    with Index(file, tiny) as index:
        index.sync(folder)
    commands = [[sys.executable, "-c", SYNC, file, folder, tiny_folder, 3 * rounds]] * 2
    commands += [[sys.executable, "-c", SEARCH, file, tiny_folder, 15 * rounds]] * 4
    running = [
        subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    # Edits go on for as long as somebody syncs, a few for each of its rounds.
    while any(process.poll() is None for process in running[:2]):
        notes.step()
        time.sleep(0.05)
    for process in running:
        _, errors = process.communicate(timeout=120 * rounds)
        assert process.returncode == 0, errors
    with Index(file, tiny) as index:
        index.sync(folder, allow_mass_delete=True)
    assert_as_new(file, folder, tiny, tmp_path / "fresh")


def test_threads_share_an_index(folder: Path, tmp_path: Path, pocket: Encoder) -> None:
    rng = random.Random(0)
    for n in range(30):
        (folder / f"{n}.md").write_text(text(rng))
    with Index(tmp_path / "index.db", pocket) as index:
        index.sync(folder)
        expected = {query: [hit.id for hit in index.search(query)] for query in ("oven", "train snow", "paint")}
        errors = []

        def search() -> None:
            try:
                for query, ids in expected.items():
                    assert [hit.id for hit in index.search(query)] == ids
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=search) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []


def test_who_is_writing_is_said(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        (folder / "b.md").write_text("more words")
        with writer(index.file, "words", False):
            report = index.sync(wait=False)
            assert "is updating this index" in report.warnings[0]
            assert "process" in report.warnings[0]
            assert not report.added
            told: list[str] = []
            thread = threading.Thread(target=lambda: index.sync(wait=told.append))
            thread.start()
            while not told:
                thread.join(0.01)
            assert thread.is_alive()
        thread.join(60)
        assert index.status().notes == 2
        # Vectors are made apart: new words do not wait for them.
        with writer(index.file, "vectors", False):
            (folder / "c.md").write_text("third")
            report = index.sync(wait=False)
            assert report.added == ["c.md"]
            assert report.without_vectors == 1
            with pytest.raises(IndexFileError, match="is updating it; try again later"):
                index.check(wait=False)


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    code = "import sys, pathlib; from mlx_jina.search.lock import writer\n"
    code += "with writer(pathlib.Path(sys.argv[1]), 'words', False):\n print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Busy, match=f"process {process.pid}, since"), writer(file, "words", False):
            pass
        process.kill()
        process.wait()
    with writer(file, "words", False):
        pass


def test_a_search_can_be_cancelled(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    from mlx_jina.search.database import Cancelled

    rng = random.Random(0)
    for n in range(200):
        (folder / f"{n}.md").write_text(text(rng, 5))
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        with pytest.raises(Cancelled):
            index.search("oven concert paint window mirror", mode="words", cancelled=lambda: True)
        assert index.search("oven", mode="words", cancelled=lambda: False)


def test_a_closed_index_says_so(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    from mlx_jina.errors import IndexFileError

    index = Index(tmp_path / "index.db", tiny)
    index.close()
    with pytest.raises(IndexFileError, match="has been closed"):
        index.search("x", mode="words")
    with Index(tmp_path / "index.db", tiny) as index, pytest.raises(InputError, match="limit"):
        index.search("x", limit=0)
