"""The commands of `mlx-jina convert`, as a user types them."""

from pathlib import Path

from click.testing import CliRunner

from mlx_jina.convert_cli import convert
from tests import checkpoints


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
