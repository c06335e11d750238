"""The examples of docs/search.md run as they stand, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "search.md"


def blocks(language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a folder of notes, where commands find those of this environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes/kitchen").mkdir(parents=True)
    bread = "---\ntags: food\n---\n# Bread\n\nFeed the starter with rye flour, every day.\n"
    (tmp_path / "notes/bread.md").write_text(bread)
    (tmp_path / "notes/kitchen/again.md").write_text(bread + "\nAnd again.\n")
    return tmp_path


def test_commands(home: Path) -> None:
    for block in blocks("console"):
        for line in block.splitlines():
            assert line.startswith("$ ")
            done = subprocess.run(["sh", "-c", line[2:]], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout or line == "$ mlx-jina index notes", line


def test_python(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    exec(compile(block, DOCS.name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bread.md:4 1.0 Bread *Feed* the *starter* with rye flour")
    assert lines[-1].endswith("(256,)")
