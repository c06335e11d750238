"""The commands of `mlx-jina convert`, as a user types them."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_jina.choices import GGUF_TYPES
from mlx_jina.cli.convert import convert
from mlx_jina.weights import convert as functions
from mlx_jina.weights.gguf import types as gguf_types
from tests.support import checkpoints


def test_to_gguf_inspect_and_to_mlx(tmp_path: Path) -> None:
    source, target = checkpoints.tiny_jina_bert(tmp_path / "model"), tmp_path / "m.gguf"
    run = CliRunner().invoke
    assert run(convert, ["to-gguf", str(source), str(target), "--type", "q8_0"]).exit_code == 0
    table = run(convert, ["inspect", str(target)])
    assert table.exit_code == 0
    assert "jina-bert-v2" in table.output
    assert "tensors Q8_0" in table.output
    assert run(convert, ["to-mlx", str(target), str(tmp_path / "mlx")]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "mlx").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_compare_says_how_far_apart_and_fails_below_the_threshold(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    other = checkpoints.tiny_jina_bert(tmp_path / "other", seed=1)
    run = CliRunner().invoke
    run(convert, ["to-gguf", str(source), str(tmp_path / "q.gguf"), "--type", "Q4_0"])
    (tmp_path / "texts.txt").write_text("how do i bake bread\n\nlight travels fast\n", encoding="utf-8")
    texts = ["--texts", str(tmp_path / "texts.txt")]
    same = run(convert, ["compare", str(source), str(source), *texts])
    assert same.exit_code == 0
    rows = [line.split(maxsplit=1) for line in same.stdout.splitlines()]
    assert [words for _, words in rows] == ["how do i bake bread", "light travels fast", "min", "mean of 2 texts"]
    assert all(abs(float(number) - 1) < 2e-6 for number, _ in rows)
    near = run(convert, ["compare", str(source), str(tmp_path / "q.gguf"), "--threshold", "0.9"])
    assert near.exit_code == 0
    far = run(convert, ["compare", str(source), str(other), *texts])
    assert far.exit_code == 1
    assert "the lowest cosine is under 0.99" in far.output


def test_compare_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    source, wide = checkpoints.tiny_jina_bert(tmp_path / "a"), checkpoints.tiny_jina_bert(tmp_path / "b", heads=8)
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    for arguments, reason in (
        ([str(source), str(wide)], "64 dimensions"),
        ([str(source), str(source), "--texts", str(tmp_path / "empty.txt")], "no texts"),
        ([str(source), str(source), "--texts", str(tmp_path / "bad.txt")], "not valid UTF-8"),
    ):
        result = CliRunner().invoke(convert, ["compare", *arguments])
        assert result.exit_code == 1
        assert reason in str(result.exception)


def test_inspect_shows_what_a_file_is(tmp_path: Path) -> None:
    source, target = checkpoints.v5_small(tmp_path / "model"), tmp_path / "m.gguf"
    run = CliRunner().invoke
    assert run(convert, ["to-gguf", str(source), str(target), "--task", "retrieval"]).exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in run(convert, ["inspect", str(target)]).stdout.splitlines())
    assert rows["architecture"] == "qwen3"
    assert rows["pooling"] == "last"
    assert rows["tokenizer"] == "gpt2, pre-tokenizer qwen2"
    assert rows["size"] == f"{target.stat().st_size:,} bytes"
    assert rows["qwen3.rope.freq_base"] == "3500000.0"
    assert rows["tokenizer.ggml.tokens"] == "512 x str"


def test_adapters_are_written_beside_their_base(tmp_path: Path) -> None:
    source, target = checkpoints.v5_small(tmp_path / "model"), tmp_path / "m.gguf"
    run = CliRunner().invoke
    assert run(convert, ["to-gguf", str(source), str(target)]).exit_code == 0
    assert run(convert, ["compare", str(source), str(target), "--task", "retrieval"]).exit_code == 0
    table = run(convert, ["inspect", str(tmp_path / "lora-retrieval-m.gguf")]).stdout
    rows = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert (rows["general.type"], rows["adapter.lora.task_name"]) == ("adapter", "retrieval")
    again = run(convert, ["to-gguf", str(source), str(target)])
    assert "--force replaces it" in str(again.exception)
    calibrated = run(convert, ["to-gguf", str(source), str(tmp_path / "x.gguf"), "--type", "iq2_xs"])
    assert "importance matrix" in str(calibrated.exception)


def test_progress_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = checkpoints.v5_small(tmp_path / "model")
    for write, target in ((functions.to_gguf, "m.gguf"), (functions.to_mlx, "mlx")):
        write(str(source), tmp_path / target, show_progress=True)
        assert "Converting: 100%" in capfd.readouterr().err


def test_the_types_offered_are_those_that_can_be_written() -> None:
    assert tuple(gguf_types.FILE_TYPES) == GGUF_TYPES


def test_modules_are_commands(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"convert.{module}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert run("to_gguf", str(source), str(tmp_path / "m.gguf")).returncode == 0
    again = run("to_gguf", str(source), str(tmp_path / "m.gguf"))
    assert again.returncode == 1
    assert again.stderr == f"error: {tmp_path / 'm.gguf'} exists already; --force replaces it\n"
    assert run("inspect", str(tmp_path / "m.gguf")).returncode == 0
    assert run("inspect", str(source)).stderr.startswith(f"error: {source}")
    assert run("compare", str(source), str(tmp_path / "m.gguf")).returncode == 0
