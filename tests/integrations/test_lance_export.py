"""An index handed over to LanceDB, and what LanceDB's own search finds in it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import Index, MlxJinaError
from mlx_jina.search import lance
from mlx_jina.search.rows import Row
from tests.support.command import run

# Found and not imported, which takes seconds of whoever collects.
pytestmark = pytest.mark.skipif(
    None in map(find_spec, ("lancedb", "pyarrow")), reason="needs pip install --group integrations"
)

NOTES = {
    "car.md": "# Car\n\nChange the oil of the engine every year.\n",
    "bread.md": "# Bread\n\nFeed the starter with rye flour every day.\n\n## Baking\n\nBake it hot.\n",
    "soup.md": "# Soup\n\nBoil lentils with cumin and salt.\n",
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text)
    index = Index(tmp_path / "notes.db")
    index.sync(tmp_path / "notes")
    return index


def opened(uri: Path) -> Any:
    import lancedb

    return lancedb.connect(str(uri)).open_table("notes")


def test_all_passages_are_there_and_found(index: Index, tmp_path: Path) -> None:
    uri = tmp_path / "lance"
    # Libraries of LanceDB's warn, which is no error here.
    done = run("index", "--index", index.file, "--to", "lancedb", uri, program=(sys.executable, "-m", "mlx_jina"))
    assert done.returncode == 0, done.stderr
    rows = sorted(index.rows(), key=lambda row: row.id)
    assert f"{len(rows)} passages are in table 'notes' of {uri}" in done.stderr
    table = opened(uri)
    found = table.to_arrow().sort_by("id").to_pylist()
    assert [(each["id"], each["path"], each["text"], each["line"]) for each in found] == [
        (row.id, row.path, row.text, row.line) for row in rows
    ]
    for each, row in zip(found, rows, strict=True):
        assert row.vector is not None
        np.testing.assert_array_equal(np.float32(each["vector"]), row.vector)
        assert NOTES[row.path][each["start"] : each["stop"]].strip() == row.text.strip()
    status = index.status()
    assert table.schema.metadata == {
        b"model": b"pocket",
        b"fingerprint": str(status.fingerprint).encode(),
    }
    query = mlx_jina.load("pocket").encode_query("feed the starter")
    hybrid = table.search(query_type="hybrid").vector(query).text("feed the starter").limit(1).to_list()
    assert hybrid[0]["path"] == "bread.md"
    # Once more replaces all of it.
    (tmp_path / "notes" / "soup.md").unlink()
    index.sync()
    assert lance.write(index.rows(), str(uri), 256) == len(rows) - 1
    assert opened(uri).count_rows() == len(rows) - 1


def test_what_cannot_be_handed_over(tmp_path: Path, index: Index) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MlxJinaError, match="file/lance: LanceDB cannot write there"):
        lance.write(index.rows(), str(tmp_path / "file" / "lance"), 256)
    done = run("index", "--index", index.file, "--to", "qdrant", "x")
    assert (done.returncode, done.stderr) == (1, "error: --to knows lancedb, and not 'qdrant'\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("words")
    assert run("index", tmp_path / "other", "--index", tmp_path / "words.db", "--words-only").returncode == 0
    done = run("index", "--index", tmp_path / "words.db", "--to", "lancedb", tmp_path / "lance")
    assert (done.returncode, done.stderr) == (
        1,
        "error: words.db has no vectors yet; `mlx-jina index` makes them\n",
    )


@pytest.mark.slow
def test_two_hundred_thousand_passages_as_a_stream(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, 64)).astype(np.float32)

    def rows() -> Iterator[Row]:
        for n in range(200_000):
            vector = centres[n % 500] + rng.standard_normal(64, dtype=np.float32)
            vector /= np.linalg.norm(vector)
            text = f"passage {n} about subject{n % 500}"
            yield Row(n, f"{n // 4}.md", (0, len(text)), 1, f"note {n // 4}", "", text, text, vector)

    assert lance.write(rows(), str(tmp_path / "lance"), 64) == 200_000
    table = opened(tmp_path / "lance")
    vectors = np.stack(table.to_arrow().sort_by("id").column("vector").to_pylist()).astype(np.float32)
    overlap = 0
    for n in range(20):
        query = centres[n] / np.linalg.norm(centres[n])
        exact = set(np.argsort(-(vectors @ query))[:10].tolist())
        hits = table.search(query).metric("cosine").nprobes(50).refine_factor(20).limit(10).to_list()
        overlap += len(exact & {hit["id"] for hit in hits})
    assert overlap >= 0.9 * 200
    assert len(table.search("subject7", query_type="fts").limit(500).to_list()) == 400


@pytest.mark.slow
def test_ray_encodes_what_an_index_cuts(tmp_path: Path, index: Index) -> None:
    rows = {row.id: row for row in index.rows()}
    with warnings.catch_warnings():
        # What Ray and pandas say of themselves is no failure of ours.
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray")
        pytest.importorskip("ray.data")
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        try:
            encoded = ray.data.from_items([{"id": row.id, "text": row.embedded} for row in rows.values()])
            encoded = encoded.map_batches(
                mlx_jina.ray.Encoder,
                fn_constructor_kwargs={"model": "pocket"},
                compute=ray.data.ActorPoolStrategy(size=2),
                batch_size=2,
            )
            made = (_with(rows[each["id"]], each["embedding"]) for each in encoded.iter_rows())
            assert lance.write(made, str(tmp_path / "lance"), 256) == len(rows)
        finally:
            ray.shutdown()
    for each in opened(tmp_path / "lance").to_arrow().to_pylist():
        # An index keeps float16.
        vector = rows[each["id"]].vector
        assert vector is not None
        np.testing.assert_allclose(each["vector"], vector, atol=2e-3)


def _with(row: Row, vector: Any) -> Row:
    return replace(row, vector=np.asarray(vector, dtype=np.float32))
