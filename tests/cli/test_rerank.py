"""`mlx-jina rerank`, as a process and as users mistype it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlx_jina
from mlx_jina.cli import app
from mlx_jina.weights import convert
from tests.support import checkpoints, reranker_checkpoints
from tests.support.command import run

QUERY, DOCUMENTS = "how do i bake bread", ["paris capital of france", "bake bread", "a man riding horse"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reranker_checkpoints.v1(tmp_path_factory.mktemp("rerank") / "v1")


def test_lines_are_best_first(folder: Path) -> None:
    done = run("rerank", str(folder), QUERY, *DOCUMENTS)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ranked = mlx_jina.load_reranker(folder).rank(QUERY, DOCUMENTS, return_documents=True)
    assert [(line["index"], line["text"]) for line in lines] == [(r["corpus_id"], r["text"]) for r in ranked]
    assert [line["score"] for line in lines] == [r["score"] for r in ranked]


def test_documents_of_files(folder: Path, tmp_path: Path) -> None:
    rows = [{"id": f"a{i}", "text": document} for i, document in enumerate(DOCUMENTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("rerank", str(folder), QUERY, "bread", "-i", str(tmp_path / "rows.jsonl"), "--top-n", "3", "--raw")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    scores = mlx_jina.load_reranker(folder).score(QUERY, ["bread", *DOCUMENTS], activation="none")
    assert [line["index"] for line in lines] == sorted(range(4), key=lambda i: -scores[i])[:3]
    assert all(line.get("id") == (f"a{line['index'] - 1}" if line["index"] else None) for line in lines)
    assert all(line["score"] == scores[line["index"]] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "nothing to rank"),
        (("", "a"), "error: the query is empty"),
        (("bread", "a", "--instruction", "x"), "takes no instruction"),
        (("bread", "a", "--top-n", "0"), "--top-n"),
        (("bread", "-i", "nowhere.txt"), "nowhere.txt does not exist"),
        (("bread " * 5000, "a"), "the query has"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("rerank", str(folder), *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_an_embedding_model(tmp_path: Path) -> None:
    done = run("rerank", str(checkpoints.tiny_jina_bert(tmp_path / "v2")), "bread", "a")
    assert done.returncode == 1
    assert "mlx_jina.load opens embedding models" in done.stderr


def test_info_of_a_file(tmp_path: Path) -> None:
    source = reranker_checkpoints.v3(tmp_path / "list")
    convert.to_mlx(source, tmp_path / "packed", bits=8)
    done = CliRunner().invoke(app.commands, ["info", str(tmp_path / "packed")], catch_exceptions=False)
    assert re.search(r"^reads +all documents at once$", done.stdout, re.MULTILINE)
    assert re.search(r"^quantised +mode affine, 8 bits", done.stdout, re.MULTILINE)
    facts = CliRunner().invoke(app.commands, ["info", "--json", str(tmp_path / "packed")], catch_exceptions=False)
    assert json.loads(facts.stdout)["listwise"] is True


def test_info_knows_rerankers() -> None:
    done = run("info", "jina-reranker-v1-tiny-en")
    assert done.returncode == 0, done.stderr
    assert "reranker" in done.stdout
    assert "apache-2.0" in done.stdout
    assert "8192 tokens" in done.stdout
