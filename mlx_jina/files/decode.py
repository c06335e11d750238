"""Bytes of an input to text: UTF-8, or words about what they are instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from mlx_jina.errors import InputError

BOM = b"\xef\xbb\xbf"
# What a file begins with that is not UTF-8, and what to do.
_OTHERS = (
    (b"\x1f\x8b", "is compressed by gzip; unpack it first: gunzip"),
    (b"BZh", "is compressed by bzip2; unpack it first: bunzip2"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first: unzstd"),
    (b"\xfd7zXZ\0", "is compressed by xz; unpack it first: unxz"),
    (b"PK\x03\x04", "is a ZIP archive, or a document of an office program; save it as text first"),
    (b"%PDF-", "is a PDF; save it as text first, or search in it: mlx-jina index reads PDF files"),
    # Before UTF-16, whose mark is the beginning of this one.
    (b"\xff\xfe\0\0", "is UTF-32; convert it first: iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "is UTF-32; convert it first: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "is UTF-16; convert it first: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "is UTF-16; convert it first: iconv -f utf-16 -t utf-8"),
)
# Without a mark at its beginning; every other byte of Latin letters is NUL.
_UTF16 = ((re.compile(rb"(?:[^\0]\0){2}"), "utf-16le"), (re.compile(rb"(?:\0[^\0]){2}"), "utf-16be"))


def decode(raw: bytes, source: str, line: int) -> str:
    """A file, or one of its lines, without the mark of UTF-8. Raises InputError that names file and line."""
    if line == 1:
        if (words := _what(raw)) is not None:
            raise InputError(f"{source} {words}")
        raw = raw.removeprefix(BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise InputError(
            f"{source}, line {line}: byte 0x{raw[error.start]:02x} is not valid UTF-8; convert the file first, as "
            "by iconv -f windows-1252 -t utf-8 if it is from an older Windows program"
        ) from None


def _what(raw: bytes) -> str | None:
    """What the beginning of a file is instead of UTF-8, in words."""
    for magic, words in _OTHERS:
        if raw.startswith(magic):
            return words
    for pattern, name in _UTF16:
        if pattern.match(raw):
            return f"is UTF-16; convert it first: iconv -f {name} -t utf-8"
    return None


def lines(file: BinaryIO, source: str) -> Iterator[str]:
    """Lines with their ends. Only newlines count, so that numbers agree with those of other tools."""
    for number, raw in enumerate(file, 1):
        if number == 1 and not raw.endswith(b"\n") and b"\r" in raw.rstrip(b"\r"):
            raise InputError(f"{source} has lines that end in CR alone; convert it first: tr '\\r' '\\n'")
        yield decode(raw, source, number)
