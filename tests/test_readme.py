"""The README's examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_python() -> None:
    """All blocks in one session, as a reader would type them; comments that show a value are checked."""
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    shown = re.findall(r"^(.+?)  # ([\[(].*[\])])$", "\n".join(blocks("python")), re.MULTILINE)
    assert len(shown) == 2
    for code, value in shown:
        expression = code.removeprefix("print(").removesuffix(")") if code.startswith("print(") else code
        assert str(eval(expression, namespace)) == value, code


@pytest.mark.parametrize("line", [line for block in blocks("console") for line in block.splitlines()])
def test_console(line: str, tmp_path: Path) -> None:
    assert line.startswith("$ ")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.md").write_text("# Bread\n\nFlour, water, salt.", encoding="utf-8")
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", line[2:]],
        cwd=tmp_path,
        env=os.environ | {"PATH": scripts},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or list(tmp_path.glob("*.npy")) or list(tmp_path.glob("*.gguf"))


def test_the_set_up_commands_are_there() -> None:
    """One runs the main job, one the tests; continuous integration runs the latter."""
    encode, tests = blocks("sh")
    for command in (encode, tests):
        assert command.startswith("python3 -m venv .venv && ")
    assert "python -m mlx_jina.encode" in encode
    assert tests.rstrip().endswith("pytest")
