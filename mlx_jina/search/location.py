"""Where the index of a folder lies: by default with the user's other application data, never among the notes."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from mlx_jina.errors import IndexFileError, InputError

SUFFIX = ".db"

# Where WAL's shared memory does not work, or another program copies files while they change.
_NETWORK = frozenset("9p afpfs afs ceph cifs davfs fuse.sshfs ncpfs nfs nfs4 smb smb2 smb3 smbfs webdav".split())
_MOUNTS = "/proc/self/mounts"
# One of so many of the latest tells a folder that was moved.
_NOTES_ASKED_FOR = 100
_SYNCED = ("Library/Mobile Documents", "Library/CloudStorage", "Dropbox", "OneDrive", "Google Drive", "Nextcloud")


def data_folder() -> Path:
    """Where indexes lie that nobody named a file for. Raises IndexFileError for a user without a home folder."""
    if not os.path.isabs(os.path.expanduser("~")):
        raise IndexFileError("your home folder is unknown (HOME is not set): name the index's file by --index")
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Application Support/mlx-jina/indexes"))
    base = os.environ.get("XDG_DATA_HOME", "")
    # The specification says that a relative path is to be ignored.
    data = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.local/share"))
    return data / "mlx-jina" / "indexes"


def default_file(folder: str | Path) -> Path:
    """What a new index of a folder is called: NAME-HASH.db, the hash of its real path and its inode.

    Numbers of devices are not hashed: those of external disks change with every mount.
    """
    real = os.path.realpath(folder)
    try:
        inode = os.stat(real).st_ino
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    identity = f"{real}\0{inode}".encode("utf-8", "surrogateescape")
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(real), flags=re.ASCII).strip("-.")[:40] or "notes"
    return data_folder() / f"{name}-{hashlib.sha256(identity).hexdigest()[:10]}{SUFFIX}"


def default_files() -> Iterator[Path]:
    """The indexes in the default place."""
    try:
        yield from sorted(path for path in data_folder().iterdir() if path.suffix == SUFFIX)
    except (FileNotFoundError, NotADirectoryError):
        return


def check(file: Path) -> None:
    """Raise IndexFileError for a place where an index would be damaged: a network's or a synchronised folder."""
    real = os.path.realpath(file)
    for part in _SYNCED:
        if f"/{part}/" in real:
            raise IndexFileError(
                f"{file} lies in {part!r}, which is copied while it changes; keep the index elsewhere: without "
                f"--index it is in {data_folder()}"
            )
    if (kind := file_system(os.path.dirname(real))) in _NETWORK:
        raise IndexFileError(
            f"{file} is on a network's file system ({kind}), where SQLite's readers miss changes; keep "
            f"the index on this machine: without --index it is in {data_folder()}"
        )


def file_system(folder: str) -> str:
    """The kind of file system that a folder is on, as `mount` calls it; "" if nobody knows."""
    if sys.platform == "darwin":
        return _file_system_of_mac(folder)
    best, kind = "", ""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, place, own, *_ = line.split(" ")
                place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
                if len(place) >= len(best) and (folder + "/").startswith(place.rstrip("/") + "/"):
                    best, kind = place, own
    except (OSError, ValueError):
        return ""
    return kind


def _file_system_of_mac(folder: str) -> str:
    """From `statfs`, which Python does not have."""
    import ctypes

    # struct statfs with 64-bit inodes: f_fstypename is 16 bytes after 72 of numbers (sys/mount.h).
    found = ctypes.create_string_buffer(4096)
    if ctypes.CDLL(None).statfs(os.fsencode(folder), found) != 0:
        return ""
    return found.raw[72:88].split(b"\0")[0].decode("ascii", "replace")


def socket_of(file: str | Path) -> Path | None:
    """Where a server that has an index listens to this user's own programs; None if that path would be too long.

    The folder of sockets is the user's alone, so whoever can connect may read the notes anyway.
    """
    own = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:16]
    path = data_folder().parent / "run" / f"{own}.sock"
    # Of sockaddr_un, 104 bytes on a Mac and 108 on Linux.
    return path if len(os.fsencode(path)) < 100 else None


def index_of(folder: str | Path) -> Path:
    """The default index of a folder: the one that has it, also if the folder has moved since."""
    file = default_file(folder)
    if file.exists():
        return file
    return _holder(os.path.realpath(folder), _known()) or file


def choose(index: str | None) -> Path:
    """The index that somebody means: a file, a folder that has one, or by default the one for where we are.

    That is the index of the current folder or of one above it, or else the only one that there is. Raises
    InputError if there is none, or not only one.
    """
    if index is not None:
        path = Path(os.path.expanduser(index))
        return index_of(path) if path.is_dir() else path
    here = os.path.realpath(os.getcwd())
    folders = [here, *map(str, Path(here).parents)]
    for folder in folders:
        if (file := default_file(folder)).exists():
            return file
    known = _known()
    for folder in folders:
        if (holder := _holder(folder, known)) is not None:
            return holder
    files = list(default_files())
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError("there is no index yet; make one of the folder with your notes: mlx-jina index FOLDER")
    names = ", ".join(folder.path for folder in known)
    raise InputError(f"there are several indexes; go to a folder that has one, or name it with --index: {names}")


class KnownFolder(NamedTuple):
    """A folder that an index has, and where it was."""

    file: Path
    path: str
    device: int
    inode: int
    notes: list[str]
    """Some of them, by their paths in it."""


def _known() -> list[KnownFolder]:
    return [folder for file in default_files() for folder in folders_of(file)]


def folders_of(file: Path) -> list[KnownFolder]:
    """Those of an index; none of what cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(file))}?mode=ro", uri=True)) as connection:
            rows = connection.execute("select id, path, device, inode from root").fetchall()
            return [
                KnownFolder(file, path, device, inode, some_notes(connection, own))
                for own, path, device, inode in rows
                if isinstance(path, str) and os.path.isabs(path)
            ]
    except (sqlite3.Error, UnicodeDecodeError):
        return []


def _holder(path: str, known: Sequence[KnownFolder]) -> Path | None:
    """The index of a folder that has another name or another inode than when it was indexed."""
    status = os.stat(path)
    for folder in known:
        same = (folder.device, folder.inode) == (status.st_dev, status.st_ino)
        if same and (folder.path == path or holds_any(path, folder.notes)):
            return folder.file
    for folder in known:
        # Put back from a backup, it has another inode; or else what was here is beside it, under a new name.
        if folder.path == path and not any(True for _ in beside(path, folder.inode)):
            return folder.file
    return None


def some_notes(connection: sqlite3.Connection, root: int) -> list[str]:
    """The latest notes of a folder, by which it can be told from another with its inode."""
    sql = "select path from note where root = ? order by mtime_ns desc limit ?"
    rows = connection.execute(sql, (root, _NOTES_ASKED_FOR))
    return [path for (path,) in rows if isinstance(path, str)]


def holds_any(folder: str, notes: Sequence[str]) -> bool:
    """Whether any of these notes, if any, is in a folder: a new one may have the inode of one that was deleted."""
    return not notes or any(os.path.exists(os.path.join(folder, note)) for note in notes)


def beside(path: str, inode: int) -> Iterator[str]:
    """What has an inode in the folder that something is or was in."""
    with suppress(OSError), os.scandir(os.path.dirname(path)) as entries:
        yield from (entry.path for entry in entries if entry.inode() == inode)


def keep_aside(file: Path) -> Path:
    """Rename a damaged index to NAME.corrupt-DATE, with what SQLite keeps beside it. Returns the new name."""
    name = f"{file.name}.corrupt-{time.strftime('%Y-%m-%d-%H%M%S')}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    aside = next(path for path in map(file.with_name, names) if not path.exists())
    for ending in ("-wal", "-shm", ""):
        part = file.with_name(file.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    return aside
