"""The measurement of second stages, on a collection that is small enough to know what must come out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import stages

TITLES = ("sourdough starters", "engine oil", "lentil soup", "train tickets", "tomato seeds", "piano concerts")

# Not as a search has them: with two spaces, with a phrase, with a word that is left out.
QUERIES = ("of  six", 'number "of six"', "six -seven", "number six", "six of", "of")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Texts alike, so that only a title tells which document answers; BEIR's layout."""
    for name, rows in {
        "corpus": [
            {"_id": f"d{n}", "title": title, "text": f"number {n} of six"} for n, title in enumerate(TITLES)
        ],
        "queries": [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lines = "".join(f"q{n}\td{n}\t{int(n < 5)}\n" for n in range(6))
    (tmp_path / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return tmp_path


def test_scripted_stages_bound_what_can_be_gained_and_lost(collection: Path) -> None:
    options = ("--only", "reranker: ", "--only", "expansion")
    done = CliRunner().invoke(stages.main, [str(collection), *options], catch_exceptions=False)
    rows = [re.split(r" *\| *", line)[1:-1] for line in done.output.splitlines()[2:]]
    figures = {row[2]: float(row[3]) for row in rows}
    assert figures["reranker: opposite"] < figures["none"] < figures["reranker: judgements"] <= 1
    assert figures["expansion: noise"] < figures["expansion: own title"] > figures["none"]
    # A query without an answer is left out.
    assert [row[1] for row in rows] == ["5"] * 6
    assert [row[7] for row in rows] == ["", "", "", "5", "5", "5"]
