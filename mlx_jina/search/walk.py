"""The files of a folder: which belong into an index, what they are called, and what `stat` says of them."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search.documents.kinds import PICTURES, SUFFIXES

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".mlx-jina-ignore")
# Beside everything whose name begins with a dot.
_IGNORED_FOLDERS = frozenset(("node_modules", "__pycache__"))
# macOS: the file's data are in iCloud only, and reading it would download it. Python 3.13 has stat.SF_DATALESS.
_DATALESS = 0x40000000


class Entry(NamedTuple):
    """A file as a scan found it."""

    path: str
    """Relative to the folder, in NFC and with "/": what an index knows the file by."""
    name: str
    """The same as the file system spells it, decoded by `os.fsdecode`: what the file is opened by."""
    size: int
    mtime_ns: int
    inode: int
    dataless: bool = False


@dataclass
class Scan:
    """All files of a folder that belong into its index."""

    entries: dict[str, Entry] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Files and folders that could not be looked at, and why; nobody knows whether their notes are still there."""
    evicted: set[str] = field(default_factory=set)
    """Files that iCloud replaced by a placeholder."""
    empty: bool = False
    """Whether the folder holds nothing at all, as the place of a volume that is not mounted does."""

    def covers(self, path: str) -> bool:
        """Whether the scan would have found a file of this path, so that it is gone if it did not."""
        if path in self.evicted:
            return False
        return not any(path == each or path.startswith(each + "/") for each in self.unread)


@dataclass(frozen=True)
class Selection:
    """Which files belong into an index, by gitignore's patterns, besides what is ignored anyway."""

    include: tuple[str, ...] = ()
    """Only files that match one of these, whatever their kind; by default every kind that has a reader."""
    exclude: tuple[str, ...] = ()
    pictures: bool = False
    """Whether pictures are among the kinds."""

    def check(self) -> None:
        """Raise InputError for what is no pattern."""
        _spec(self.include)
        _spec(self.exclude)
        if self.include and not any(pattern.strip() for pattern in self.include):
            raise InputError("the pattern of what to include is empty; '*' is everything")


def scan(folder: str, selection: Selection) -> Scan:
    """Walk a folder. Links are not followed: what they lead to is found in its place, or lies outside.

    Raises OSError if the folder itself cannot be read.
    """
    found = Scan()
    _Walker(selection, found).walk(folder, "", "", [])
    return found


def open_below(folder: str, name: str) -> int:
    """A descriptor of a file below a folder, to be read. No part of the name may be a link: since the scan one may
    have taken the place of the file, or of a folder above it.

    Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    *folders, file = name.split("/")
    if ".." in name.split("/") or not file:
        raise OSError(errno.EINVAL, "not a path below the folder")
    # The folder itself may be reached by a link: it was chosen by its owner.
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in folders:
            below = os.open(each, flags | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        # Not to wait for whoever writes into a named pipe.
        return os.open(file, flags | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)


def is_dataless(status: os.stat_result) -> bool:
    """Whether a file has only its name here, and its data in iCloud."""
    return bool(getattr(status, "st_flags", 0) & _DATALESS)


def key(name: str) -> str:
    """A name as an index spells it: NFC, whatever the file system prefers. Bytes that are no UTF-8 are escaped."""
    return name if name.isascii() else unicodedata.normalize("NFC", _printable(name))


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


class _Walker:
    def __init__(self, selection: Selection, found: Scan) -> None:
        self.found = found
        self.include = _spec(selection.include) if selection.include else None
        self.exclude = _spec(selection.exclude) if selection.exclude else None
        self.suffixes = SUFFIXES | PICTURES if selection.pictures else SUFFIXES
        # A folder may be mounted into itself.
        self.seen: set[tuple[int, int]] = set()

    def walk(self, folder: str, name: str, path: str, ignoring: Sequence[tuple[int, GitIgnoreSpec]]) -> None:
        """The files below a folder. `ignoring` are rules, and where paths begin that are relative to them."""
        try:
            with os.scandir(folder) as listing:
                children = list(listing)
        except OSError as error:
            if not path:
                raise
            self.found.unread[path] = error.strerror or str(error)
            return
        self.found.empty = not path and not children
        for child in children:
            if child.name in IGNORE_FILES and (spec := self._rules(child.path, f"{path}/{child.name}")):
                ignoring = [*ignoring, (len(path) + 1 if path else 0, spec)]
        keys = _keys([child.name for child in children])
        for child in children:
            own = keys[child.name] if keys is not None else child.name
            below = f"{path}/{own}" if path else own
            self._visit(child, f"{name}/{child.name}" if name else child.name, below, ignoring)

    def _visit(
        self, child: os.DirEntry[str], name: str, path: str, ignoring: Sequence[tuple[int, GitIgnoreSpec]]
    ) -> None:
        if child.name.startswith("."):
            if child.name.endswith(".icloud"):
                self.found.evicted.add(f"{path.rpartition('/')[0]}/{key(child.name[1:-7])}".lstrip("/"))
            return
        try:
            if child.is_symlink():
                return
            folder = child.is_dir(follow_symlinks=False)
            if folder:
                if child.name in _IGNORED_FOLDERS:
                    return
            elif self.include is None and os.path.splitext(child.name)[1].lower() not in self.suffixes:
                return
            if self._is_ignored(path, folder, ignoring):
                return
            status = child.stat(follow_symlinks=False)
        except OSError as error:
            self.found.unread[path] = error.strerror or str(error)
            return
        if folder:
            place = (status.st_dev, status.st_ino)
            if place not in self.seen:
                self.seen.add(place)
                self.walk(child.path, name, path, ignoring)
        elif stat.S_ISREG(status.st_mode):
            self.found.entries[path] = Entry(
                path, name, status.st_size, status.st_mtime_ns, status.st_ino, is_dataless(status)
            )

    def _is_ignored(self, path: str, folder: bool, ignoring: Sequence[tuple[int, GitIgnoreSpec]]) -> bool:
        if self.exclude is None and self.include is None and not ignoring:
            return False
        name = path + "/" if folder else path
        if self.exclude is not None and self.exclude.match_file(name):
            return True
        if self.include is not None and not folder and not self.include.match_file(name):
            return True
        # As with git, the rules of the innermost folder decide, and the last of them that matches.
        for start, spec in reversed(ignoring):
            ignored = spec.check_file(name[start:]).include
            if ignored is not None:
                return ignored
        return False

    def _rules(self, file: str, path: str) -> GitIgnoreSpec | None:
        try:
            with open(file, encoding="utf-8", errors="replace") as stream:
                lines = stream.read().splitlines()
        except OSError as error:
            self.found.unread[path.lstrip("/")] = error.strerror or str(error)
            return None
        try:
            return _spec(lines)
        except InputError:
            # What git passes over, such as a lone "!".
            return _spec([line for line in lines if _is_pattern(line)])


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise InputError(f"{' '.join(patterns)!r}: not patterns as in .gitignore: {error}") from None


def _is_pattern(line: str) -> bool:
    try:
        _spec([line])
    except InputError:
        return False
    return True


def _keys(names: Sequence[str]) -> dict[str, str] | None:
    """What an index calls the files of one folder; None if just that.

    Where names differ by their normalisation alone, as they can on Linux, all stay as they are.
    """
    if all(map(str.isascii, names)):
        return None
    found = {name: key(name) for name in names}
    if len(set(found.values())) == len(found):
        return found
    return {name: _printable(name) for name in names}
