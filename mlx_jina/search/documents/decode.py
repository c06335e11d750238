"""Bytes to text: which encoding a file is in, and whether it is text at all."""

from __future__ import annotations

import codecs

from mlx_jina.search.documents.base import UnreadableError

# A NUL this early means that a file is no text.
_HEAD = 8192
# The mark of the first of them begins with that of the third.
_MARKED = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def decode(data: bytes) -> tuple[str, str | None]:
    """The text of a file without its byte order mark, and a remark if its encoding was guessed.

    UTF-16 and UTF-32 by their marks, else UTF-8, else Windows-1252, which every byte is valid in here. Raises
    UnreadableError.
    """
    for mark, encoding in _MARKED.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace"), None
    if b"\0" in data[:_HEAD]:
        raise UnreadableError("not text: it has NUL bytes")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        # Five bytes mean nothing in Windows-1252; they keep the value that Latin-1 gives them.
        text = "".join(_WINDOWS[byte] for byte in data)
        return text, f"read as Windows-1252, since it is not UTF-8 (line {line})"


def _windows(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_WINDOWS = [_windows(byte) for byte in range(256)]
