"""The model of an index: a query's vector that is begun before it is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import Index
from mlx_jina.encoder import Encoder
from mlx_jina.search import model as search_model
from mlx_jina.search.model import Model
from tests.support import checkpoints


class Asked:
    """What `encode_query` was asked for, which waits as long as it is held."""

    def __init__(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()
        encode = encoder.encode_query

        def spy(text: str, **options: Any) -> Any:
            self.texts.append(text)
            self.begun.release()
            assert self.go_on.wait(20)
            if text == "bad":
                raise RuntimeError("no vector")
            return encode(text, **options)

        monkeypatch.setattr(encoder, "encode_query", spy)


@pytest.fixture
def asked(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    own = Asked(tiny, monkeypatch)
    yield own
    own.go_on.set()


def test_a_search_encodes_its_query_once_while_words_are_searched(
    tmp_path: Path, folder: Path, tiny: Encoder, asked: Asked
) -> None:
    (folder / "a.md").write_text("a fox in the snow")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        for _ in range(2):
            found = index.find("fox")
            assert (found.mode, found.warning, len(found.hits)) == ("hybrid", None, 1)
        index.find("fox", mode="words")
        index.find("snow")
    assert asked.texts == ["fox", "snow"]


def test_who_types_on_waits_for_one_older_query_at_most(tiny: Encoder, asked: Asked) -> None:
    model = Model(tiny)
    asked.go_on.clear()
    model.preload("f")
    assert asked.begun.acquire(timeout=20)
    for typed in ("fo", "fox", "fox i", "fox in"):
        model.preload(typed)
    asked.go_on.set()
    wanted = tiny.encode_query("fox in")
    np.testing.assert_array_equal(model.encode_query("fox in"), wanted)
    model.close()
    assert asked.texts.count("fox in") == 2
    assert {*asked.texts} == {"f", "fox in"}


def test_an_error_is_its_askers_and_nobody_elses(
    tiny: Encoder, asked: Asked, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Model(tiny)
    model.preload("bad")
    model.close()
    with pytest.raises(RuntimeError, match="no vector"):
        model.encode_query("bad")
    assert capfd.readouterr().err == ""
    assert model.encode_query("good").shape == (tiny.dimension,)


def test_few_vectors_are_kept(tiny: Encoder, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_model, "_QUERIES", 3)
    model = Model(tiny)
    for number in range(5):
        model.encode_query(f"fox {number}")
    for number in (4, 3, 2, 0):
        model.encode_query(f"fox {number}")
    assert asked.texts == [*(f"fox {number}" for number in range(5)), "fox 0"]


def test_many_searches_at_once(tiny: Encoder, asked: Asked) -> None:
    model = Model(tiny)
    texts = [f"fox {number}" for number in range(12)]
    wanted = {text: tiny.encode_query(text) for text in texts}

    def search(text: str) -> None:
        for _ in range(5):
            model.preload(text)
            np.testing.assert_array_equal(model.encode_query(text), wanted[text])
            done.append(text)

    done: list[str] = []
    threads = [threading.Thread(target=search, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    assert sorted(done) == sorted(texts * 5)
    assert len(asked.texts) == 2 * len(texts)


LATE = """
import atexit, sys, threading
import mlx_jina

index = mlx_jina.Index(sys.argv[1], mlx_jina.load(sys.argv[2]))
index.search("fox")

def search(text):
    threading.main_thread().join()
    print(len(index.search(text)), flush=True)

threading.Thread(target=search, args=("snow",)).start()
atexit.register(lambda: print(len(index.search("in the snow")), flush=True))
"""


def test_a_process_that_ends_still_searches(tmp_path: Path, folder: Path) -> None:
    """In a thread that outlives the main one, and at exit, where Python starts no pools of threads any more."""
    model = checkpoints.tiny_jina_bert(tmp_path / "model")
    (folder / "a.md").write_text("a fox in the snow")
    with Index(tmp_path / "index.db", mlx_jina.load(model)) as index:
        index.sync(folder)
    command = [sys.executable, "-c", LATE, str(tmp_path / "index.db"), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["1", "1"], "")
