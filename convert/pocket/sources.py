"""Where the texts come from: packages that may be used for a model under Apache-2.0, each at one version."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from convert.pocket import readers
from convert.pocket.readers import Section


@dataclass(frozen=True)
class Source:
    """One package. `licence` is that of the texts that `pattern` names, as the package states it."""

    registry: str
    name: str
    version: str
    licence: str
    read: Callable[[Path], Iterator[Section]]
    share: float
    """The part of its passages that is taken: technical prose would swamp the rest."""
    pattern: str
    """Of its files."""
    sha256: str

    def folder(self, root: Path) -> Path:
        return root / "sources" / f"{self.name}-{self.version.replace(':', '_')}"

    def sections(self, root: Path) -> Iterator[Section]:
        """What it says, in the order of its files."""
        for path in sorted(self.folder(root).glob(self.pattern)):
            if path.is_file():
                yield from self.read(path)


def load() -> list[Source]:
    """The rows of sources.csv."""
    with open(Path(__file__).with_name("sources.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Source(**{**row, "read": getattr(readers, row["read"]), "share": float(row["share"])}) for row in rows]


def fetch(root: Path) -> None:
    """Download and unpack what is not there yet. Raises ValueError for a file that is not the recorded one."""
    for source in load():
        folder = source.folder(root)
        if folder.exists():
            continue
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        (part / "download").mkdir(parents=True)
        _download(source, part / "download")
        (archive,) = (part / "download").iterdir()
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != source.sha256:
            raise ValueError(
                f"{archive.name} of {source.registry} has SHA-256 {found}, and sources.csv says {source.sha256}: "
                "check the licence in it, then record its version and hash"
            )
        _unpack(archive, part)
        shutil.rmtree(part / "download")
        part.rename(folder)


def _download(source: Source, folder: Path) -> None:
    commands = {
        "debian": ["apt-get", "download", "-q", f"{source.name}={source.version}"],
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{source.name}=={source.version}"],
        "npm": ["npm", "pack", "--silent", f"{source.name}@{source.version}"],
    }
    subprocess.run(commands[source.registry], cwd=folder, check=True)


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    elif archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
