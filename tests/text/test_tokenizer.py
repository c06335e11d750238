"""The tokenizers library behind our own errors, without chance, and for texts of any length."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

import mlx_jina
from mlx_jina.errors import CheckpointError, InputError, TooLongError, TruncationWarning
from mlx_jina.text import tokenizer as text_tokenizer
from mlx_jina.weights import convert, hub
from tests.support import checkpoints, decoder_checkpoints, v3_checkpoints

# Rust says what it panics of.
pytestmark = pytest.mark.filterwarnings("error")


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    checkpoints.write_json(path, content)
    return folder


def test_dropout_of_training_is_off(tmp_path: Path) -> None:
    folder = decoder_checkpoints.code(tmp_path / "code")
    plain = mlx_jina.load(folder)
    change(folder, lambda content: content["model"].update(dropout=0.5))
    convert.to_gguf(str(folder), tmp_path / "m.gguf", kind="F32")
    for path in (folder, tmp_path / "m.gguf"):
        model = mlx_jina.load(path)
        assert model.fingerprint() == plain.fingerprint()
        assert all(
            model.tokenize(["how do i bake bread"]) == plain.tokenize(["how do i bake bread"]) for _ in range(20)
        )


def _explosive(folder: Path) -> Path:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_panic_is_an_error_that_names_the_text(bert: Path) -> None:
    model = mlx_jina.load(_explosive(bert))
    texts = ["a fox", "a" * 40 + "b", "the dog"]
    uses: tuple[Callable[[], object], ...] = (
        lambda: model.encode(texts),
        lambda: list(model.encode_stream(texts)),
        lambda: model.encode_tokens(texts),
        lambda: model.tokenize(texts),
        lambda: model.tokens(texts),
        lambda: model.count_tokens(texts),
        lambda: model.encode_chunks(texts, "fixed"),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"text 1 cannot be tokenised: .*retry-limit-in-match") as caught:
            use()
        assert caught.value.position == 1
    # What does not panic goes on working.
    assert model.encode(["a fox", "the dog"]).shape == (2, 64)


def test_a_missing_unknown_token(bert: Path) -> None:
    def without(content: dict[str, Any]) -> None:
        del content["model"]["vocab"]["[UNK]"]
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]

    model = mlx_jina.load(change(bert, without))
    with pytest.raises(InputError, match=r"text 1 cannot be tokenised: .*Missing \[UNK\]"):
        model.encode(["a fox", "漢"])


@pytest.mark.parametrize("beyond", [2**31, 2**32 - 1])
def test_an_id_beyond_all_models(bert: Path, beyond: int) -> None:
    model = mlx_jina.load(change(bert, lambda content: content["model"]["vocab"].update(fox=beyond)))
    with pytest.raises(CheckpointError, match=r"an id of 2\^31 or more"):
        model.encode("a fox")


def test_damaged_charsmaps(tmp_path: Path) -> None:
    """The library panics over a precompiled map of v3 that is wrong."""
    folder = v3_checkpoints.native(tmp_path / "v3")
    normalizer = {
        "type": "Precompiled",
        "precompiled_charsmap": "ALQCAACEAAAAAACAAQAAgMz8AgC4BQAAhyIAgMzkAgC4PQAA",
    }
    change(folder, lambda content: content.update(normalizer=normalizer))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        mlx_jina.load(folder)


def test_a_panic_ends_no_program(bert: Path) -> None:
    """One line on standard error besides Rust's own, and status 1."""
    _explosive(bert)
    command = [sys.executable, "-m", "mlx_jina", "encode", "--model", str(bert), "a" * 40 + "b"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"RUST_BACKTRACE": "0"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: text 0 cannot be tokenised:")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("make", [checkpoints.tiny_jina_bert, decoder_checkpoints.code, v3_checkpoints.native])
def test_large_texts_are_read_as_far_as_it_takes(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlx_jina.load(make(tmp_path / "model"))
    text = "how do i bake bread, and light travels fast in vacuum? " * 2000
    whole = model._tokenizer.encode([text])[0]
    assert len(whole) > 4 * 512
    monkeypatch.setattr(text_tokenizer, "LARGE", 3001)
    first, short = model._tokenizer.encode([text, "a fox"], max_length=512)
    np.testing.assert_array_equal(short, model._tokenizer.encode(["a fox"])[0])
    assert 512 < len(first) < len(whole)
    np.testing.assert_array_equal(model._tokenizer.truncate(first, 512), model._tokenizer.truncate(whole, 512))
    with pytest.warns(TruncationWarning):
        part = model.encode(text, max_length=512, prompt="")
    monkeypatch.undo()
    with pytest.warns(TruncationWarning):
        np.testing.assert_array_equal(part, model.encode(text, max_length=512, prompt=""))
    with pytest.raises(TooLongError):
        model.encode(text, max_length=512, prompt="", truncate=False)
    # Of few tokens, all of it is needed.
    monkeypatch.setattr(text_tokenizer, "LARGE", 100)
    np.testing.assert_array_equal(model._tokenizer.encode([text], max_length=10**6)[0], whole)


# ---- large texts


WORDS = [
    "bread",
    "café",
    "naïve",
    "日本語のテキスト",
    "x=1;",
    "don't",
    "🙂👩‍👩‍👧",
    "नमस्ते",
    "1,234.56",
    "\n\n",
    "  two",
    "\ttab",
    "ﬁ",
]


@pytest.mark.parametrize("family", ["wordpiece", "qwen", "v3", "pocket"])
def test_parts_have_the_tokens_of_the_whole(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and offsets, wherever a text is parted; and where only the beginning counts."""
    if family == "wordpiece":
        folder = checkpoints.tiny_jina_bert(tmp_path / "m")
    elif family == "qwen":
        folder = checkpoints.v5_small(tmp_path / "m")
    elif family == "v3":
        folder = v3_checkpoints.native(tmp_path / "m", v3_checkpoints.V3_TINY)
    else:
        folder = hub.resolve("pocket")
    tokenizer = text_tokenizer.Tokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"), folder)
    rng = random.Random(family)
    for _ in range(12):
        text = " ".join(rng.choices(WORDS, k=600))
        ((ids, offsets),) = tokenizer.encode_with_offsets([text])
        with monkeypatch.context() as patched:
            patched.setattr(text_tokenizer, "LARGE", 500)
            patched.setattr(text_tokenizer, "GROUP", rng.randrange(300, 900))
            ((parted_ids, parted_offsets),) = tokenizer.encode_with_offsets([text])
            np.testing.assert_array_equal(parted_ids, ids)
            np.testing.assert_array_equal(parted_offsets, offsets)
            np.testing.assert_array_equal(tokenizer.encode([text])[0], ids)
            ((few_ids, few_offsets),) = tokenizer.encode_with_offsets([text], max_length=50)
            assert 100 < len(few_ids) <= len(ids)
            for few, whole in ((few_ids, ids), (few_offsets, offsets)):
                np.testing.assert_array_equal(tokenizer.truncate(few, 50), tokenizer.truncate(whole, 50))


def test_a_large_text_takes_little_memory(tmp_path: Path) -> None:
    """The library itself takes more than ten times as much for all of a text at once."""
    folder = checkpoints.tiny_jina_bert(tmp_path)
    code = """if True:
        import resource, sys, warnings
        import mlx_jina
        warnings.simplefilter("ignore")
        model = mlx_jina.load(sys.argv[1])
        model.encode_tokens("a fox", max_length=64)
        scale = 1024 if sys.platform == "linux" else 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        text = "the quick brown fox " * 600_000
        model.encode_tokens(text, max_length=64)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before)
    """
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400e6
