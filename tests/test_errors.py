"""Errors as programs read them: positions and counts that survive copies, threads and other machines."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import pytest

import mlx_jina
from mlx_jina import Encoder, InputError, MlxJinaError, NumericalError, TooLongError, TruncationWarning, errors
from mlx_jina.engine import distributed, pipeline
from mlx_jina.files import inputs
from mlx_jina.options import EncodeOptions
from tests.support import checkpoints

LONG = "fox " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2")))


def test_the_text_at_fault_has_its_name_in_front() -> None:
    error = TooLongError("has 9 tokens", position=3)
    assert (str(error), error.words, error.position) == ("text 3 has 9 tokens", "has 9 tokens", 3)
    assert (str(InputError("no such option")), InputError("no such option").position) == ("no such option", None)


@pytest.mark.parametrize("name", [name for name in mlx_jina.__all__ if name.endswith("Error")])
@pytest.mark.parametrize("position", [None, 0, 7])
def test_errors_survive_pickling(name: str, position: int | None) -> None:
    error = getattr(mlx_jina, name)("is not good", position=position)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (str(other), other.words, other.position) == (str(error), error.words, position)


def test_warnings_survive_pickling() -> None:
    warning = pickle.loads(pickle.dumps(TruncationWarning(2, 512)))
    assert (warning.count, warning.max_length) == (2, 512)
    assert str(warning) == "2 texts were longer than 512 tokens and cut; truncate=False makes it an error"
    assert str(TruncationWarning(1, 8)).startswith("1 text was longer than 8 tokens")


@pytest.mark.parametrize(
    ("wrong", "options", "kind"),
    [
        (3.5, {}, InputError),
        ("a\udcff", {}, InputError),
        (LONG, {"max_length": 10, "truncate": False}, TooLongError),
    ],
)
def test_every_method_says_where_a_text_is(
    model: Encoder, wrong: Any, options: EncodeOptions, kind: type[InputError]
) -> None:
    texts = ["the fox", "the dog", wrong, "bread"]
    calls: list[Any] = [
        lambda: model.encode(texts, **options),
        lambda: model.encode(texts, output="tokens", **options),
        lambda: model.encode_query(texts, **options),
        lambda: model.encode_tokens(texts, **options),
        lambda: list(model.encode_stream(texts, **options)),
        lambda: model.encode_chunks(texts, late=False, chunk_tokens=None, **options),
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.position == 2
        assert str(caught.value).startswith("text 2 ")


def test_a_chunk_without_tokens_is_named(model: Encoder) -> None:
    with pytest.raises(InputError, match="text 1 has no tokens of its own") as caught:
        model.encode(["the fox", " ", "bread"], late_chunking=True)
    assert caught.value.position == 1


def test_a_damaged_chunk_is_named(model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows of one document: what is wrong is said of the first text in the window, not of the document."""
    usable = pipeline.usable

    def without_the_last(pooled: Any, plan: Any) -> Any:
        good = usable(pooled, plan)
        good[-1] = False
        return good

    monkeypatch.setattr(pipeline, "usable", without_the_last)
    with pytest.raises(NumericalError) as caught:
        model.encode([f"the fox number {i} sleeps" for i in range(9)], late_chunking=True, max_length=20)
    assert caught.value.position is not None
    assert caught.value.position > 4


def test_warnings_count(model: Encoder) -> None:
    with pytest.warns(TruncationWarning) as caught:
        model.encode([LONG, "fox", LONG], max_length=10)
    assert [
        (w.message.count, w.message.max_length) for w in caught if isinstance(w.message, TruncationWarning)
    ] == [(2, 10)]


@contextmanager
def helper(model: Encoder, options: EncodeOptions) -> Iterator[distributed.Work]:
    """The work of another process, which is a thread here: the same bytes go over a socket."""
    with Listener(("127.0.0.1", 0), "AF_INET") as listener:
        connection = Client(listener.address, "AF_INET")
        thread = threading.Thread(target=distributed.answer, args=(connection, model, options))
        thread.start()
        with listener.accept() as here:
            assert here.recv_bytes() == b"ready"
            yield distributed._Remote(here)
        thread.join(30)


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> distributed.Helpers:
    """Those of a job with one process."""
    (tmp_path / "hosts").write_text("[]", encoding="utf-8")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    return distributed.Helpers()


def test_positions_come_over_the_wire(
    model: Encoder, helpers: distributed.Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WINDOW_TEXTS", 2)
    options: EncodeOptions = {"max_length": 10, "truncate": False}
    with helper(model, options) as work:
        with pytest.raises(TooLongError, match="text 1 has 42 tokens") as caught:
            work(["fox", LONG])
        assert caught.value.position == 1
        # In its own window the text is another one than in the whole input.
        helpers.free.put(work)
        with pytest.raises(TooLongError, match="text 5 has 42 tokens") as caught:
            list(distributed.Team(model, helpers).encode_stream(["fox"] * 5 + [LONG], **options))
        assert caught.value.position == 5


def test_counts_come_over_the_wire(
    model: Encoder, helpers: distributed.Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WINDOW_TEXTS", 2)
    with helper(model, {"max_length": 10}) as work:
        rows, cut = work(["fox", LONG, LONG])
        assert (rows.shape, cut) == ((3, 64), 2)
        helpers.free.put(work)
        with pytest.warns(TruncationWarning, match="3 texts were longer than 10 tokens") as caught:
            list(distributed.Team(model, helpers).encode_stream([LONG, "fox", LONG, LONG], max_length=10))
    assert [w.message.count for w in caught if isinstance(w.message, TruncationWarning)] == [3]


# ---- words


def test_a_list_is_shown_in_part() -> None:
    assert (errors.some([]), errors.some("ab"), errors.some("abcd", 3)) == ("", "a, b", "a, b, c and 1 more")
    assert errors.some(map(str, range(50_000))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 49,990 more"
    assert len(errors.some(["x" * 10_000] * 50_000)) < 1_000
    assert errors.shown("a") == "'a'"
    assert len(errors.shown(list(range(50_000)))) < 100


def test_files_with_very_many_names(tmp_path: Path) -> None:
    """Each message that lists what is in a file, a folder or a header stays a line."""
    names = [f"a_rather_long_name_{number}" for number in range(5_000)]
    model = checkpoints.tiny_jina_bert(tmp_path / "model")
    (model / "model.safetensors").rename(tmp_path / "weights")
    for name in names:
        (model / name).touch()
    (tmp_path / "t.jsonl").write_text(json.dumps(dict.fromkeys(names)) + "\n")
    (tmp_path / "t.csv").write_text(",".join(names) + "\n1\n")
    words = []
    for use in (
        lambda: mlx_jina.load(model),
        lambda: list(inputs.from_paths([str(tmp_path / "t.jsonl")], None)),
        lambda: list(inputs.from_paths([str(tmp_path / "t.csv")], None)),
    ):
        with pytest.raises(MlxJinaError) as caught:
            use()
        words.append(str(caught.value))
    assert all("more" in each and len(each) < 1_000 for each in words)
    for key in ("matryoshka_dims", "hidden_size"):
        config = {**checkpoints.read_config(model), key: names}
        folder = checkpoints.tiny_jina_bert(tmp_path / key)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(MlxJinaError) as caught:
            mlx_jina.load(folder)
        assert len(str(caught.value)) < 500
