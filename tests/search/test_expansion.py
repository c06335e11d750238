"""Questions in other words: a scripted model for what it does to a search, a tiny random one for the plumbing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlx_jina import CheckpointError, Index, InputError, ModelNotFoundError, NumericalError
from mlx_jina.encoder import Encoder
from mlx_jina.search import expansion
from mlx_jina.search.expansion import Expansion
from mlx_jina.search.language_model import LanguageModel, parse
from mlx_jina.search.ranking import Ranked
from mlx_jina.search.words import Words
from tests.support import language_models
from tests.support.command import run

NOTES = {
    "car.md": "# Car\n\nChange the oil of the engine every year.\n",
    "bread.md": "# Bread\n\nFeed the starter with rye flour every day.\n",
    "soup.md": "# Soup\n\nBoil lentils with cumin and salt.\n",
    "train.md": "# Train\n\nThe ticket to the coast was cheap.\n",
}


class Scripted:
    """Says what it was told to."""

    def __init__(self, rewordings: Sequence[str], answer: str = "") -> None:
        self.said = Expansion(tuple(rewordings), answer)
        self.asked: list[str] = []

    def expand(self, query: str, /) -> Expansion:
        self.asked.append(query)
        return self.said


@pytest.fixture
def index(tmp_path: Path, folder: Path, pocket: Encoder) -> Index:
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    index = Index(tmp_path / "notes.db", pocket)
    index.sync(folder)
    return index


def test_other_words_find_what_the_question_lacks(index: Index) -> None:
    assert not index.search("lubricant", mode="words")
    scripted = Scripted(["motor oil", "LUBRICANT", " "])
    found = index.find("lubricant", mode="words", expand=scripted)
    assert [hit.path for hit in found.hits] == ["car.md"]
    assert scripted.asked == ["lubricant"]
    # What repeats the question, or nothing, is not searched for.
    assert found.explanation.expansion == Expansion(("motor oil",))
    # A third of all scores is the rewording's, as the question counts double.
    assert found.hits[0].score == pytest.approx(1 / 3)
    assert (found.hits[0].bm25, found.hits[0].highlights) == (None, ())


def test_a_supposed_answer_is_searched_by_its_meaning(index: Index) -> None:
    question = "what should I remember?"
    plain = {hit.path: hit.score for hit in index.search(question)}
    answer = "A sourdough starter has to be fed with flour regularly."
    found = index.find(question, expand=Scripted([], answer))
    scores = {hit.path: hit.score for hit in found.hits}
    # The answer, a third of the score, raises the note that says it, and no other.
    gains = {path: scores[path] - plain[path] for path in NOTES}
    assert gains.pop("bread.md") > 0.1 > max(gains.values())
    # Words alone know no meanings.
    assert not index.search("lubricant", mode="words", expand=Scripted([], "the oil of a car"))


def test_filters_hold_for_other_words(index: Index) -> None:
    found = index.search("lubricant in:bread.md", mode="words", expand=Scripted(["engine oil", "in:car.md oil"]))
    assert found == []
    assert not index.search("lubricant -engine", mode="words", expand=Scripted(["oil"]))


def test_strong_words_need_no_others(index: Index) -> None:
    scripted = Scripted(["oil"])
    assert index.find("Soup", expand=scripted).explanation.strong
    assert scripted.asked == []
    assert index.find("Soup", expand=scripted).explanation.expansion is None
    chunk = 1 << 20
    assert expansion.is_strong(Words({chunk: 20.0, 2 * chunk: 1.0}), ())
    # Two chunks of one note are one.
    assert expansion.is_strong(Words({chunk: 20.0, chunk + 1: 19.0}), ())
    assert not expansion.is_strong(Words({chunk: 20.0, 2 * chunk: 19.0}), ())
    assert not expansion.is_strong(Words({chunk: 5.0}), ())
    assert not expansion.is_strong(Words(), ())
    assert expansion.is_strong(Words(), {7})


def test_the_original_counts_double() -> None:
    original = [Ranked(1, 0.9, 0.5, 2.0), Ranked(2, 0.3, 0.4, None)]
    others = [[Ranked(2, 1.0, 0.9, 9.0), Ranked(3, 0.5, 0.1, 1.0)], [Ranked(3, 1.0, None, 3.0)]]
    found = {each.chunk: each for each in expansion.combine(original, others)}
    assert found[1].score == pytest.approx(1.8 / 4)
    assert found[2].score == pytest.approx(1.6 / 4)
    assert found[3].score == pytest.approx(1.5 / 4)
    assert (found[2].cosine, found[3].cosine, found[3].bm25) == (0.4, None, None)
    assert expansion.combine(original, []) == original


def test_what_goes_wrong_is_said(index: Index) -> None:
    class Failing:
        def expand(self, query: str, /) -> Expansion:
            raise NumericalError("no words came")

    found = index.find("engine oil", mode="words", expand=Failing())
    assert found.warning == "not expanded: no words came"
    assert (found.mode, found.hits[0].path) == ("words", "car.md")
    with pytest.raises(InputError, match="expand='qwen' must be a LanguageModel, not str"):
        index.find("oil", expand="qwen")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "rewordings", "answer"),
    [
        ("reword: a\nreword: b c\nanswer: It is so.", ("a", "b c"), "It is so."),
        ("<think>reword: no</think>\n1. **Reword:** a\n- reword 2: b\n**Answer:** yes", ("a", "b"), "yes"),
        ('Reword: "quoted"\nAnswer: one\nAnswer: two', ("quoted",), "one"),
        ("<think>never ends\nreword: a", (), ""),
        ("I cannot help with that.", (), ""),
        ("", (), ""),
    ],
)
def test_whatever_a_model_says_is_read(said: str, rewordings: tuple[str, ...], answer: str) -> None:
    assert parse(said) == Expansion(rewordings, answer)


def test_what_a_model_says_is_bounded() -> None:
    endless = Expansion(tuple(f"{n} " + "x" * 5000 for n in range(9)), "y" * 5000).bounded("q")
    assert (len(endless.rewordings), max(map(len, endless.rewordings)), len(endless.answer)) == (3, 1000, 1000)


@pytest.fixture(scope="module")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in Qwen3's layout, which mlx-lm runs, and which say nothing that makes sense."""
    pytest.importorskip("mlx_lm")
    return language_models.tiny(tmp_path_factory.mktemp("lm") / "qwen")


def test_a_model_of_mlx_lm(index: Index, tiny_language_model: Path, tmp_path: Path) -> None:
    model = LanguageModel(tiny_language_model, max_tokens=12)
    first = model.generate("how do I bake bread?")
    assert first
    # A fixed seed, and a limit of tokens.
    assert model.generate("how do I bake bread?") == first
    assert LanguageModel(tiny_language_model, max_tokens=12).generate("how do I bake bread?") == first
    assert len(LanguageModel(tiny_language_model, max_tokens=3).generate("how do I bake bread?")) < len(first)
    found = index.find("engine oil", mode="words", expand=model)
    assert (found.warning, found.hits[0].path) == (None, "car.md")
    with pytest.raises(ModelNotFoundError, match="absent"):
        LanguageModel(tmp_path / "absent")
    # Which embeds, and rewords nothing.
    with pytest.raises(ModelNotFoundError, match=r"'pocket' is neither .* of a language model"):
        LanguageModel("pocket")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: mlx-lm cannot load it"):
        LanguageModel(tmp_path / "empty")


def test_a_model_loaded_after_it_has_the_fast_blas(tiny_language_model: Path) -> None:
    code = (
        "import sys, warnings, mlx_jina\n"
        "from mlx_jina.search.language_model import LanguageModel\n"
        "LanguageModel(sys.argv[1])\nwarnings.simplefilter('error')\nmlx_jina.load('pocket')\n"
    )
    done = run(tiny_language_model, program=(sys.executable, "-c", code))
    assert done.returncode == 0, done.stderr


def test_on_the_command_line(index: Index, tiny_language_model: Path) -> None:
    options = ("--index", index.file, "--no-sync", "--mode", "words", "--expand", tiny_language_model)
    done = run("search", "flour ticket", *options, "--json", "--explain")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["explanation"]["expansion"] == {"rewordings": [], "answer": ""}
    assert {hit["path"] for hit in answer["hits"]} == {"bread.md", "train.md"}
    done = run("search", "Soup", *options, "--explain")
    assert "words match strongly: nothing else was searched for" in done.stdout
