"""Whatever happens to a folder, and whenever a sync is killed: the next one ends where a new index would."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_jina import Index
from mlx_jina.encoder import Encoder
from tests.support.notes import assert_as_new, text

# A process that syncs an index until it is killed, or done. "begun" is said once the model is loaded.
SYNC = """
import sys
import mlx_jina
from mlx_jina.search import embedding, updating
updating._BATCH_NOTES = 5
embedding._FIRST_WINDOW = embedding._LARGEST_WINDOW = 400
file, folder, model = sys.argv[1:]
loaded = mlx_jina.load(model)
with mlx_jina.Index(file, loaded) as index:
    print("begun", flush=True)
    index.sync(folder)
"""


class Folder:
    """Notes, and what people do to them."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.rng = rng
        self.made = 0

    def notes(self) -> list[Path]:
        """All files, in an order of their own."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def new(self) -> Path:
        """A name that is free."""
        self.made += 1
        folder = self.path / self.rng.choice(("", "", "sub", "sub/deep", "other"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"Note {self.made}.{self.rng.choice(('md', 'md', 'txt', 'org'))}"

    def step(self) -> None:
        """One edit."""
        notes = self.notes()
        edit = self.rng.choice(
            ("create", "create", "edit", "append", "move", "swap", "touch", "case", "delete", "copy")
        )
        if edit == "create" or len(notes) < 3:
            self.new().write_text(text(self.rng))
            return
        one, other = self.rng.sample(notes, 2)
        if edit == "edit":
            one.write_text(text(self.rng))
        elif edit == "append":
            with open(one, "a") as file:
                file.write(f"\n\n{text(self.rng, 1)}")
        elif edit == "move":
            one.rename(self.new().with_suffix(one.suffix))
        elif edit == "swap":
            one.rename(self.path / "swapped")
            other.rename(one)
            (self.path / "swapped").rename(other)
        elif edit == "touch":
            os.utime(one, (time.time(), self.rng.randint(1, 2_000_000_000)))
        elif edit == "case":
            one.rename(
                one.with_name(one.name.swapcase().replace("MD", "md").replace("TXT", "txt").replace("ORG", "org"))
            )
        elif edit == "delete":
            one.unlink()
        else:
            shutil.copy(one, self.new().with_suffix(one.suffix))


def run_script(seed: int, folder: Path, place: Path, model: Encoder) -> None:
    """A few edits, a sync, and again; then the index is compared with a new one."""
    rng = random.Random(seed)
    notes = Folder(folder, rng)
    with Index(place / "index.db", model) as index:
        for _ in range(rng.randint(1, 4)):
            for _ in range(rng.randint(1, 8)):
                notes.step()
            index.sync(folder, vectors=rng.random() < 0.7, allow_mass_delete=True)
        index.sync(folder, allow_mass_delete=True)
    assert_as_new(place / "index.db", folder, model, place / "fresh")


@pytest.mark.parametrize("seed", range(12))
def test_edits_lead_where_a_new_index_is(seed: int, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    run_script(seed, folder, tmp_path, tiny)


@pytest.mark.slow
def test_500_scripts_of_edits(tmp_path: Path, tiny: Encoder) -> None:
    for seed in range(100, 600):
        place = tmp_path / str(seed)
        (place / "notes").mkdir(parents=True)
        run_script(seed, place / "notes", place, tiny)
        shutil.rmtree(place)


def kill_at_random(seed: int, kills: int, folder: Path, place: Path, model: Encoder, checkpoint: Path) -> int:
    """Syncs that are killed, with edits between them. Returns how many were killed before they ended."""
    rng = random.Random(seed)
    notes = Folder(folder, rng)
    for _ in range(60):
        notes.step()
    file = place / "index.db"
    longest = 1.0
    killed = 0
    for _ in range(kills):
        for _ in range(rng.randint(5, 15)):
            notes.step()
        command = [sys.executable, "-c", SYNC, file, folder, checkpoint]
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # Importing MLX takes most of its life, and is not what is tested.
            assert process.stdout.readline() == b"begun\n"
            started = time.monotonic()
            try:
                process.wait(rng.uniform(0, longest))
                longest = max(0.05, time.monotonic() - started)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
    with Index(file, model) as index:
        assert index.check() == []
        index.sync(folder, allow_mass_delete=True)
    assert_as_new(file, folder, model, place / "fresh")
    return killed


def test_a_killed_sync_goes_on(folder: Path, tmp_path: Path, tiny: Encoder, tiny_folder: Path) -> None:
    assert kill_at_random(1, 6, folder, tmp_path, tiny, tiny_folder) > 0


@pytest.mark.slow
def test_200_kills(tmp_path: Path, tiny: Encoder, tiny_folder: Path) -> None:
    killed = 0
    for seed in range(20):
        place = tmp_path / str(seed)
        (place / "notes").mkdir(parents=True)
        killed += kill_at_random(seed, 15, place / "notes", place, tiny, tiny_folder)
        shutil.rmtree(place)
    assert killed >= 200, killed
