"""Late chunking and token vectors against float64 states pooled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import mlx_jina
from mlx_jina import InputError, TruncationWarning, vectors
from mlx_jina.encoder import Encoder
from mlx_jina.engine import late_chunking
from mlx_jina.engine.late_chunking import ChunkedDocument
from mlx_jina.vectors import Floats
from tests.support import checkpoints, reference
from tests.support.tolerance import bound

DOCUMENT = (
    "The quick brown fox jumps over the lazy dog. How do I bake bread?\r\n\r\n"
    "What is deep learning? A man riding a horse. Vector search on mac! "
    "Light travels fast in vacuum. Embeddings work offline.\n\nParis, the capital of France."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Encoder:
    return mlx_jina.load(folder)


@pytest.fixture(scope="module")
def v5(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return mlx_jina.load(checkpoints.v5_small(tmp_path_factory.mktemp("v5")), task="retrieval")


@pytest.fixture(scope="module")
def states(folder: Path) -> Any:
    """Token states (L, D) of a row of ids, in float64."""
    weights = {name: np.array(tensor) for name, tensor in checkpoints.read_tensors(folder).items()}
    config = checkpoints.read_config(folder)
    return lambda ids: reference.jina_bert(weights, config, "original", np.array(ids))


def means(rows: npt.NDArray[Any], document: ChunkedDocument) -> npt.NDArray[np.float64]:
    """Unit vectors of each chunk's tokens in the document's states."""
    return reference.unit(
        np.stack([rows[slice(*chunk.token_span)].mean(axis=0) for chunk in document.chunks]).astype(np.float64)
    )


class TestOneWindow:
    @pytest.mark.parametrize(
        "options",
        [
            {"chunk_tokens": None},
            {"chunk": "paragraph", "chunk_tokens": None},
            {"chunk_tokens": 20, "overlap": 8},
            {"chunk": "fixed", "chunk_tokens": 7},
        ],
    )
    def test_chunks_are_the_means_of_the_document_s_states(
        self, model: Encoder, states: Any, options: dict[str, Any]
    ) -> None:
        document = model.encode_chunks(DOCUMENT, **options)
        (ids,) = model.tokenize(DOCUMENT)
        assert len(document.chunks) > 1
        assert document.chunks[0].token_span[0] == 0
        assert document.chunks[-1].token_span[1] == len(ids)
        assert all(DOCUMENT[slice(*chunk.span)] == chunk.text for chunk in document.chunks)
        np.testing.assert_allclose(document.vectors, means(states(ids), document), atol=bound(2e-6))

    def test_one_chunk_is_the_whole_text(self, model: Encoder) -> None:
        (document,) = model.encode_chunks([DOCUMENT], chunk_tokens=1000)
        np.testing.assert_allclose(document.vectors, model.encode([DOCUMENT]), atol=bound(3e-7))
        assert document.chunks[0].text == DOCUMENT

    def test_the_first_chunk_has_the_prompt_and_the_last_the_closing_token(
        self, model: Encoder, states: Any
    ) -> None:
        prompt = "the brown: "
        document = model.encode_chunks(DOCUMENT, chunk_tokens=None, prompt=prompt)
        (ids,) = model.tokenize(prompt + DOCUMENT)
        plain = model.encode_chunks(DOCUMENT, chunk_tokens=None)
        assert [chunk.text for chunk in document.chunks] == [chunk.text for chunk in plain.chunks]
        # "the", "brown" and ":".
        assert document.chunks[0].token_span == (0, plain.chunks[0].token_span[1] + 3)
        assert document.chunks[0].span[0] == 0
        assert document.chunks[-1].token_span[1] == len(ids)
        np.testing.assert_allclose(document.vectors, means(states(ids), document), atol=bound(2e-6))

    def test_context_matters_and_only_late(self, model: Encoder) -> None:
        together = model.encode_chunks(DOCUMENT, chunk_tokens=None)
        alone = model.encode_chunks(DOCUMENT, chunk_tokens=None, late=False)
        assert alone.chunks == together.chunks
        texts = [chunk.text for chunk in alone.chunks]
        np.testing.assert_allclose(alone.vectors, model.encode(texts), atol=bound(3e-7))
        assert np.abs(together.vectors - alone.vectors).max() > 1e-2

    def test_batches_do_not_matter(self, model: Encoder) -> None:
        texts = [DOCUMENT, "", "The fox.", DOCUMENT[:80], "   ", DOCUMENT[10:] * 3]
        together = model.encode_chunks(texts, chunk_tokens=12)
        for text, document in zip(texts, together, strict=True):
            single = model.encode_chunks(text, chunk_tokens=12, batch_tokens=1)
            assert document.chunks == single.chunks
            assert "".join(chunk.text for chunk in document.chunks) == text
            np.testing.assert_allclose(document.vectors, single.vectors, atol=bound(3e-7))
        np.testing.assert_allclose(together[1].vectors, model.encode([""]), atol=bound(3e-7))


class TestLongDocuments:
    @pytest.mark.parametrize(("prompt", "overlap"), [(None, 4), ("a man: ", 7), (None, 100)])
    def test_windows_by_hand(
        self, model: Encoder, states: Any, monkeypatch: pytest.MonkeyPatch, prompt: str | None, overlap: int
    ) -> None:
        monkeypatch.setattr(late_chunking, "WINDOW_OVERLAP", overlap)
        limit = 20
        document = model.encode_chunks(
            DOCUMENT, chunk_tokens=None, max_length=limit, prompt=prompt, truncate=False
        )
        (ids,) = model.tokenize((prompt or "") + DOCUMENT)
        lead = 1 + (3 if prompt else 0)
        content = ids[lead:-1]
        room = limit - lead - 1
        shared = min(overlap, room // 2)
        rows = [states(ids[:lead] + content[:room] + ids[-1:])[:-1]]
        done = room
        while done < len(content):
            window = content[done - shared : done - shared + room]
            states_of_it = states(ids[:lead] + window + ids[-1:])
            rows.append(states_of_it[lead + shared : -1])
            done += len(window) - shared
        rows.append(states_of_it[-1:])
        stitched = np.concatenate(rows)
        assert len(rows) > 3
        assert len(stitched) == len(ids)
        np.testing.assert_allclose(document.vectors, means(stitched, document), atol=bound(2e-6))

    def test_no_token_is_lost_or_counted_twice(self, model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a document of exactly one window, one token more, and so on."""
        monkeypatch.setattr(late_chunking, "WINDOW_OVERLAP", 3)
        for words in range(1, 40):
            text = " ".join(["fox"] * words)
            document = model.encode_chunks(text, "fixed", chunk_tokens=1, max_length=12)
            assert [chunk.token_span[1] - chunk.token_span[0] for chunk in document.chunks] == (
                [words + 2] if words == 1 else [2, *[1] * (words - 2), 2]
            )
            assert np.isfinite(document.vectors).all()

    def test_the_real_overlap(self, model: Encoder) -> None:
        """Windows of 1100 words that share 512: the second one is the text from word 588 on."""
        words = [checkpoints.WORDS[i * i % len(checkpoints.WORDS)] for i in range(1500)]
        document = model.encode_chunks(" ".join(words), "fixed", chunk_tokens=100, max_length=1102)
        second = model.encode_tokens(" ".join(words[588:]), normalize_embeddings=False).vectors
        for chunk, first in ((11, 1100), (12, 1200)):
            expected = second[1 + first - 588 : 1 + first - 588 + 100].mean(axis=0)
            np.testing.assert_allclose(
                document.vectors[chunk], expected / np.linalg.norm(expected), atol=bound(1e-6)
            )

    def test_a_prompt_may_not_fill_the_window(self, model: Encoder) -> None:
        with pytest.raises(InputError, match="max_length=5 leaves no room for text beside 5 other tokens"):
            model.encode_chunks(DOCUMENT, max_length=5, prompt="a man riding ")


class TestJoined:
    TEXTS = ("The quick brown fox.", "How do I bake bread", "Paris, the capital of France.")

    def test_texts_are_chunks_of_one_document(self, model: Encoder, states: Any) -> None:
        out = model.encode(self.TEXTS, late_chunking=True)
        (ids,) = model.tokenize(" ".join(self.TEXTS))
        lengths = [len(text) - 2 for text in model.tokenize(self.TEXTS)]
        first, second = 1 + lengths[0], 1 + lengths[0] + lengths[1]
        rows = states(ids)
        expected = [part.mean(axis=0) for part in (rows[:first], rows[first:second], rows[second:])]
        np.testing.assert_allclose(out, reference.unit(np.stack(expected)), atol=bound(2e-6))

    def test_agrees_with_chunks_of_the_text(self, model: Encoder) -> None:
        document = model.encode_chunks(DOCUMENT, chunk_tokens=None)
        texts = [chunk.text.strip() for chunk in document.chunks]
        np.testing.assert_allclose(model.encode(texts, late_chunking=True), document.vectors, atol=bound(3e-7))

    def test_one_text_and_none(self, model: Encoder) -> None:
        np.testing.assert_allclose(
            model.encode("the fox", late_chunking=True), model.encode("the fox"), atol=bound(3e-7)
        )
        assert model.encode([], late_chunking=True, precision="ubinary").shape == (0, 8)
        assert model.encode([""], late_chunking=True).shape == (1, 64)

    def test_a_text_without_tokens_is_named(self, model: Encoder) -> None:
        for texts in (["fox", " ", "dog"], ["fox", "dog", ""], ["", "fox"]):
            with pytest.raises(InputError, match=f"text {[t.strip() for t in texts].index('')} has no tokens"):
                model.encode(texts, late_chunking=True)

    def test_what_is_no_text_is_named(self, model: Encoder) -> None:
        with pytest.raises(InputError, match="text 1 holds a lone surrogate"):
            model.encode(["fox", "\udcff"], late_chunking=True)
        with pytest.raises(InputError, match="text 1 is of type int"):
            model.encode(["fox", 3], late_chunking=True)  # type: ignore[list-item]


class TestTokenVectors:
    def test_they_are_the_states(self, model: Encoder, states: Any) -> None:
        texts = ["The Fox  jumps", "", DOCUMENT]
        for text, tokens in zip(texts, model.encode_tokens(texts, normalize_embeddings=False), strict=True):
            assert tokens.ids.tolist() == model.tokenize(text)[0]
            np.testing.assert_allclose(tokens.vectors, states(tokens.ids), atol=bound(2e-5))
            pooled = vectors.normalize(tokens.vectors.mean(axis=0, keepdims=True))
            np.testing.assert_allclose(pooled[0], model.encode(text), atol=bound(5e-7))

    def test_spans(self, model: Encoder) -> None:
        tokens = model.encode_tokens("The Fox  jumps", prompt="a dog: ")
        assert tokens.spans.tolist() == [[0, 0]] * 4 + [[0, 3], [4, 7], [9, 14]] + [[0, 0]]
        np.testing.assert_allclose(np.linalg.norm(tokens.vectors, axis=1), 1, atol=bound(1e-6))

    def test_options_are_those_of_encode(self, model: Encoder) -> None:
        with pytest.warns(TruncationWarning, match="1 text was longer than 6 tokens"):
            tokens = model.encode_tokens(
                "the quick brown fox jumps",
                max_length=6,
                truncate_dim=32,
                allow_untrained_dim=True,
                precision="int8",
            )
        assert tokens.vectors.shape == (6, 32)
        assert tokens.vectors.dtype == np.int8
        assert tokens.spans[-2:].tolist() == [[16, 19], [0, 0]]
        assert tokens.ids[-1] == model.tokenize("")[0][-1]

    def test_output_of_encode(self, model: Encoder) -> None:
        tokens = model.encode_tokens(["the fox", "a"])
        for expected, found in zip(tokens, model.encode(["the fox", "a"], output="tokens"), strict=True):
            np.testing.assert_array_equal(found.vectors, expected.vectors)
        assert model.encode("the fox", output="tokens").vectors.shape == (4, 64)
        options: list[tuple[dict[str, Any], str]] = [
            ({"output": "words"}, "output='words' is not one of vectors, tokens"),
            ({"output": "tokens", "late_chunking": True}, "does not fit"),
        ]
        for wrong, message in options:
            with pytest.raises(InputError, match=message):
                model.encode("fox", **wrong)

    def test_last_token_models(self, v5: Encoder) -> None:
        (tokens,) = v5.encode_tokens(["light travels"])
        np.testing.assert_allclose(tokens.vectors[-1], v5.encode("light travels"), atol=bound(1e-5))
        # The prompt is "Document: ", and its space begins the text's first token.
        assert tokens.spans.max() == len("light travels")


class TestOptions:
    def test_as_in_encode(self, model: Encoder) -> None:
        """Of what is made of the means, encode of one chunk is the measure."""
        options: list[dict[str, Any]] = [
            {"truncate_dim": 32, "allow_untrained_dim": True},
            {"normalize_embeddings": False},
            {"precision": "int8"},
            {"precision": "ubinary"},
            {"prompt": "the "},
            {"batch_tokens": 3},
        ]
        for option in options:
            whole = model.encode_chunks(DOCUMENT, chunk_tokens=1000, **option)
            expected = model.encode([DOCUMENT], **option)
            assert whole.vectors.dtype == expected.dtype
            np.testing.assert_allclose(whole.vectors, expected, atol=bound(1e-6))
        with pytest.raises(InputError, match="between 1 and 64"):
            model.encode_chunks(DOCUMENT, truncate_dim=65)

    def test_last_token_models_say_why_not(self, v5: Encoder) -> None:
        with pytest.raises(InputError, match=r"takes the last token's state.*late=False"):
            v5.encode_chunks(DOCUMENT)
        with pytest.raises(InputError, match="takes the last token's state"):
            v5.encode([DOCUMENT], late_chunking=True)
        alone = v5.encode_chunks(DOCUMENT, chunk_tokens=None, late=False)
        texts = [chunk.text for chunk in alone.chunks]
        assert "".join(texts) == DOCUMENT
        np.testing.assert_allclose(alone.vectors, v5.encode(texts), atol=bound(1e-6))

    def test_documents_are_named(self, model: Encoder) -> None:
        with pytest.raises(InputError, match="text 1 holds a lone surrogate"):
            model.encode_chunks(["fox", "a\udcff"])
        with pytest.raises(InputError, match="text 1 has 12 tokens, more than max_length=8"):
            model.encode_chunks(
                ["fox", " ".join(["fox"] * 10)], late=False, max_length=8, truncate=False, chunk_tokens=None
            )

    def test_a_stream_holds_few_documents(self, model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlx_jina.engine.pipeline.WINDOW_TEXTS", 4)
        texts = [f"The fox {n}. A dog." for n in range(10)]
        done: list[int] = []
        blocks = list(model.encode_chunks_stream(iter(texts), chunk_tokens=None, advance=done.append))
        assert [len(block) for block in blocks] == [4, 4, 2]
        assert sum(done) == 10
        together = model.encode_chunks(texts, chunk_tokens=None)
        for got, expected in zip([d for block in blocks for d in block], together, strict=True):
            assert got.chunks == expected.chunks
            np.testing.assert_allclose(got.vectors, expected.vectors, atol=bound(3e-7))


def test_an_overflow_of_half_precision_is_repaired(folder: Path, tmp_path: Path) -> None:
    tensors = checkpoints.read_tensors(folder)
    tensors["encoder.layer.0.mlp.gated_layers.weight"] *= 300
    tensors["encoder.layer.0.mlp.wo.weight"] /= 300**2
    mx.eval(tensors)
    checkpoints.tiny_jina_bert(tmp_path)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    exact: Floats = mlx_jina.load(tmp_path, dtype="float32").encode_chunks(DOCUMENT, chunk_tokens=None).vectors
    half = mlx_jina.load(tmp_path, dtype="float16").encode_chunks([DOCUMENT, "The fox."], chunk_tokens=None)
    assert (half[0].vectors * exact).sum(axis=1).min() > 0.999
